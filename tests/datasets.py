"""Datasets that tests write themselves: trees of images, archives of them, and a checkout's cache and git."""

import json
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile

import numpy as np
from PIL import Image

from components.ingest.pin import PAIRS, PIN
from components.ingest.staging import listing
from components.ingest.version import tree_version

PAIRS_HERE = {"CT-MRI": ("2004", "2005", "16003"), "PET-MRI": ("25015", "25016")}


def write_image(path, seed, modality, size=(32, 32)):
    """An image as its modality has it: CT with much bone-white, PET in colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = modality in ("PET", "SPECT")
    levels = np.random.default_rng([seed, len(modality)]).integers(
        0, 200, (*size, 3) if colour else size, dtype=np.uint8
    )
    if modality == "CT":
        levels[:8] = 255
    Image.fromarray(levels).save(path)


def write_tree(folder, pairs=PAIRS_HERE):
    for collection, names in pairs.items():
        for modality in (collection.split("-")[0], "MRI"):
            for name in names:
                write_image(folder / collection / modality / f"{name}.png", int(name), modality)
    return folder


def git(folder, *arguments):
    settings = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def dvc(folder, *arguments):
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)


def fill(checkout, tree):
    """Put the images where an import would: into `data` and DVC's cache."""
    shutil.copytree(tree, checkout / "data")
    cache = checkout / ".dvc" / "cache" / "files" / "md5"
    files = sorted(listing(tree).items(), key=lambda entry: entry[0].split("/"))
    objects = {md5: (tree / path).read_bytes() for path, md5 in files}
    listed = json.dumps([{"md5": md5, "relpath": path} for path, md5 in files]).encode()
    for md5, content in {**objects, tree_version(files): listed}.items():
        (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
        (cache / md5[:2] / md5[2:]).write_bytes(content)


def leftovers(checkout):
    return sorted(
        path.name for path in checkout.iterdir() if path.name.startswith("data") and path.name not in (PIN, PAIRS)
    )


def packed(tree, place, opened=None):
    """The images in a tar file, below a folder, beside a readme."""
    with (opened or open)(place, "wb") as raw, tarfile.open(fileobj=raw, mode="w") as tar:
        tar.add(tree, "release-2/images")
        tar.addfile(tarfile.TarInfo("release-2/README"))
    return place


def zipped(tree, place):
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(tree.rglob("*.png")):
            opened.write(path, f"images/{path.relative_to(tree)}")
        opened.writestr("__MACOSX/CT-MRI/CT/._2004.png", "resource fork")
    return place


def swap(a, b):
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def ask(url, body=b""):
    request = urllib.request.Request(url, body, {"Content-Type": "text/plain"}, method="POST")
    with urllib.request.urlopen(request) as answer:
        return answer.read()
