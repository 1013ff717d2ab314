"""`fusion data`: bring the dataset in whole or not at all, say what differs, pin new versions, share by DVC."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.ingest import archive, source
from components.ingest.pin import PAIRS, PIN, Pin, find_root, pairs_text, pin_text, read_pin
from components.ingest.staging import listing
from components.ingest.version import folder_version, tree_version

ROOT = Path(__file__).parents[2]
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


@pytest.fixture
def tree(tmp_path):
    """Five pairs of three subjects, as they might lie on a disk."""
    return write_tree(tmp_path / "elsewhere" / "images")


@pytest.fixture
def public(tmp_path, tree):
    """A git repository with those images deep inside, a hook and a link; returns its address and commit."""
    folder = tmp_path / "public"
    shutil.copytree(tree, folder / "Havard-Medical-Image-Fusion-Datasets")
    (folder / "README.md").write_text("images")
    (folder / "link").symlink_to("/etc/passwd")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "images")
    return f"file://{folder}", git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path, tree, public, monkeypatch, fusion):
    """A fresh clone that pins those images, which it does not have."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "ATLAS_FUSION", "GIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    folder = tmp_path / "checkout"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    files = listing(tree)
    size = sum((tree / path).stat().st_size for path in files)
    meta = {"terms": "Free for research.", "source": {"git": public[0], "commit": public[1]}}
    (folder / PAIRS).write_text(pairs_text(files))
    (folder / PIN).write_text(pin_text(Pin(tree_version(files.items()), size, len(files), meta, files)))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "pin")
    monkeypatch.chdir(folder)
    return folder


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


@pytest.fixture
def uncached(monkeypatch):
    """Leave DVC's cache alone, which takes a process of DVC."""
    monkeypatch.setattr("components.ingest.importing.into_cache", lambda root: None)


def leftovers(checkout):
    return sorted(
        path.name for path in checkout.iterdir() if path.name.startswith("data") and path.name not in (PIN, PAIRS)
    )


# --- a fresh clone ----------------------------------------------------------------------------------------------------


def test_a_fresh_clone_is_filled_from_the_public_repository(checkout, tree, fusion):
    before = fusion("data", "status").stdout
    assert "not here; `fusion data import` brings it in" in before and "5 pairs (CT-MRI 3, PET-MRI 2)" in before
    done = fusion("data", "import")
    assert (done.returncode, done.stderr) == (0, "") and "data/ is complete, from file://" in done.stdout
    assert folder_version(checkout / "data") == folder_version(tree)
    after = fusion("data", "status").stdout
    assert "complete, as pinned" in after and "holds this version" in after
    assert leftovers(checkout) == ["data"]
    assert dvc(checkout, "status").stdout == "Data and pipelines are up to date.\n"
    assert git(checkout, "status", "--short") == "", "neither DVC nor the import rewrites what is committed"
    shutil.rmtree(Path(checkout).parent / "public")
    assert "nothing to do" in fusion("data", "import").stdout


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


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar", packed),
        ("a.tgz", lambda tree, place: packed(tree, place, gzip.open)),
        ("a.tar.bz2", lambda tree, place: packed(tree, place, bz2.open)),
        ("a.tar.xz", lambda tree, place: packed(tree, place, lzma.open)),
        ("a.zip", zipped),
        ("folder", lambda tree, place: tree.rename(place)),
    ],
)
def test_archives_and_folders_fill_it_as_well(checkout, tree, tmp_path, fusion, uncached, name, pack):
    version = folder_version(tree)
    given = pack(tree, tmp_path / name)
    assert fusion("data", "import", given).returncode == 0
    assert folder_version(checkout / "data") == version
    assert fusion("data", "verify").stdout == f"{checkout}/data is version {version}: all 10 files are as pinned\n"


def test_a_source_that_differs_is_refused_naming_every_file(checkout, tree, fusion):
    good = tree / "CT-MRI" / "CT" / "2004.png"
    good.write_bytes(good.read_bytes()[:-300])
    shutil.copy(tree / "CT-MRI" / "MRI" / "2005.png", tree / "CT-MRI" / "CT" / "2005.png")
    (tree / "PET-MRI" / "MRI" / "25016.png").unlink()
    write_image(tree / "PET-MRI" / "PET" / "25017.png", 1, "PET")
    done = fusion("data", "import", tree)
    assert done.returncode == 2 and "1 missing, 1 extra, 2 changed" in done.stderr
    missing, extra, truncated, swapped = done.stdout.splitlines()
    assert missing == "  missing  PET-MRI/MRI/25016.png" and extra == "  extra    PET-MRI/PET/25017.png"
    assert truncated.startswith("  changed  CT-MRI/CT/2004.png (damaged (")
    assert swapped.endswith("CT-MRI/CT/2005.png (mislabelled: the image that is pinned as CT-MRI/MRI/2005.png)")
    assert leftovers(checkout) == []
    told = json.loads(fusion("data", "import", tree, "--json").stdout)
    assert told["difference"]["changed"] == ["CT-MRI/CT/2004.png", "CT-MRI/CT/2005.png"]
    assert set(told["faults"]) == {"CT-MRI/CT/2004.png", "CT-MRI/CT/2005.png"}


def test_verify_and_status_name_what_was_spoilt_and_import_mends_it(checkout, uncached, tree, fusion, refused):
    assert "no such data folder" in refused("data", "verify")
    fusion("data", "import", tree)
    assert fusion("data", "verify").returncode == 0
    (checkout / "data" / "CT-MRI" / "CT" / "2004.png").unlink()
    done = fusion("data", "verify")
    assert done.returncode == 1 and "  missing  CT-MRI/CT/2004.png" in done.stdout
    assert "CT-MRI subject 2: changed 2004" in fusion("data", "status").stdout
    assert fusion("data", "import").returncode == 0 and fusion("data", "verify").returncode == 0
    write_image(checkout / "data" / "CT-MRI" / "CT" / "2004.png", 9, "CT")
    assert "holds 1 files that data.dvc does not pin, such as CT-MRI/CT/2004.png" in refused("data", "import")
    assert fusion("data", "verify").returncode == 1, "what is nowhere else is not dropped unasked"
    assert fusion("data", "import", "--force").returncode == 0 and fusion("data", "verify").returncode == 0


# --- new versions -----------------------------------------------------------------------------------------------------


def test_more_subjects_make_a_new_version_that_shows_as_pairs(checkout, tree, fusion):
    fill(checkout, tree)
    old = read_pin(checkout)
    write_tree(checkout / "data", {"CT-MRI": ("37003", "37004"), "SPECT-MRI": ("3008",)})
    for modality in ("CT", "MRI"):
        (checkout / "data" / "CT-MRI" / modality / "16003.png").unlink()
    done = fusion("data", "import", "data", "--new-version")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[1:4] == [
        "  -1   CT-MRI subject 16: removed 16003",
        "  +2   CT-MRI subject 37: added 37003, 37004",
        "  +1   SPECT-MRI subject 3: added 3008",
    ]
    new = read_pin(checkout)
    assert new.listed and new.version == folder_version(checkout / "data") != old.version
    assert new.meta["pairs"] == {"CT-MRI": 4, "PET-MRI": 2, "SPECT-MRI": 1}
    assert new.meta["terms"] == "Free for research." and new.meta["source"] == {"folder": "on this machine"}
    assert new.meta["earlier"] == [{"version": old.version, **old.meta["source"]}]
    lines = [line[:14] for line in git(checkout, "diff", "-U0", PAIRS).splitlines() if line[0] in "+-"][2:]
    assert lines == ["-CT-MRI,16003,", "+CT-MRI,37003,", "+CT-MRI,37004,", "+SPECT-MRI,300"]
    assert dvc(checkout, "status").stdout == "Data and pipelines are up to date.\n"
    assert (checkout / PIN).read_text() == pin_text(new), "DVC lays it out in the same way"


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda ct, mri: (mri / "37003.png").unlink(), "has CT-MRI/CT/37003.png without CT-MRI/MRI/37003.png"),
        (lambda ct, mri: (ct / "37003.png").rename(ct / "37-3.png"), "does not follow <subject><3-digit slice>.png"),
        (lambda ct, mri: (ct / "37003.png").write_bytes(b"GIF89a"), "CT/37003.png in .* is unfit: no PNG file"),
        (
            lambda ct, mri: Image.new("RGB", (32, 32), "red").save(mri / "37003.png"),
            "in colour, where MRI is 8-bit grey",
        ),
        (lambda ct, mri: Image.new("I;16", (32, 32)).save(mri / "37003.png"), "more than 8 bits a channel"),
        (lambda ct, mri: Image.new("RGBA", (32, 32)).save(ct / "37003.png"), "of pixel mode RGBA"),
        (lambda ct, mri: write_image(ct / "37003.png", 1, "CT", (32, 40)), "40x32 pixels, where the others have 32x32"),
        (lambda ct, mri: Image.new("L", (5000, 9)).save(ct / "37003.png"), "5000x9 pixels, where sides are 8 to 4096"),
        (lambda ct, mri: shutil.copy(ct / "37003.png", mri / "37003.png"), "the same image as CT-MRI/MRI/37003.png"),
        (lambda ct, mri: shutil.copy(ct / "2004.png", mri / "37003.png"), "mislabelled: the image that is pinned as"),
        (lambda ct, mri: swap(ct / "37003.png", mri / "37003.png"), "mislabelled: .* as if swapped"),
    ],
)
def test_images_that_are_unfit_or_mislabelled_make_no_version(checkout, tree, refused, fusion, spoil, complaint):
    write_tree(tree, {"CT-MRI": ("37003",)})
    spoil(tree / "CT-MRI" / "CT", tree / "CT-MRI" / "MRI")
    before = (checkout / PIN).read_bytes()
    done = fusion("data", "import", tree, "--new-version")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert re.search(complaint, done.stderr), done.stderr
    assert (checkout / PIN).read_bytes() == before and leftovers(checkout) == []
    assert not (checkout / "data").exists()


def test_a_subject_most_of_whose_new_pairs_look_swapped_is_mislabelled(checkout, tree, refused):
    names = ("37003", "37004", "37005")
    write_tree(tree, {"CT-MRI": names})
    for name in names[:2]:
        swap(*(tree / "CT-MRI" / modality / f"{name}.png" for modality in ("CT", "MRI")))
    assert "as if swapped, and 1 more are unfit" in refused("data", "import", tree, "--new-version")


def swap(a, b):
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def test_an_archive_of_more_subjects_adds_to_what_is_here(checkout, uncached, tree, fusion, refused, tmp_path):
    fill(checkout, tree)
    old = read_pin(checkout)
    more = zipped(write_tree(tmp_path / "more", {"CT-MRI": ("37003", "37004")}), tmp_path / "more.zip")
    done = fusion("data", "import", more, "--add")
    assert done.stdout.splitlines()[1:2] == ["  +2   CT-MRI subject 37: added 37003, 37004"]
    new = read_pin(checkout)
    assert new.files.items() > old.files.items() and new.version == folder_version(checkout / "data")
    assert list(new.meta["source"]) == ["added_archive"] and "more.zip" not in (checkout / PIN).read_text()


def test_a_new_version_from_git_names_its_commit(checkout, uncached, tree, public, fusion):
    folder = Path(public[0].removeprefix("file://"))
    write_tree(folder / "Havard-Medical-Image-Fusion-Datasets", {"CT-MRI": ("37003",)})
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "more")
    commit = git(folder, "rev-parse", "HEAD")
    assert fusion("data", "import", f"git+{public[0]}@{commit}", "--new-version").returncode == 0
    assert read_pin(checkout).meta["source"] == {"git": public[0], "commit": commit}
    assert fusion("data", "import", "git").stdout.startswith("data/ is complete, nothing to do")


@pytest.mark.parametrize("name", ["labels/2004.txt", ".notes", "CT-MRI/truth/2004.png"])
@pytest.mark.parametrize("given", [["data", "--new-version"], ["data"], ["more", "--add"], []])
def test_no_import_drops_a_file_that_no_version_has(checkout, uncached, tree, fusion, refused, name, given):
    fill(checkout, tree)
    write_tree(checkout / "more", {"CT-MRI": ("37003",)})
    (checkout / "data" / "CT-MRI" / "CT" / "2004.png").unlink()
    (checkout / "data" / "CT-MRI" / "MRI" / "2004.png").unlink()
    if "--add" in given or given == ["data"]:
        shutil.copytree(tree, checkout / "data", dirs_exist_ok=True)
        write_tree(checkout / "data", {"CT-MRI": ()})
    kept = checkout / "data" / name
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    if given == ["data"] and name == ".notes":
        assert "nothing to do" in fusion("data", "import", *given).stdout
    else:
        assert f"such as {name}" in refused("data", "import", *given)
    assert kept.read_text() == "mine" and git(checkout, "diff", PIN) == ""


def test_adding_to_a_clone_that_lacks_pinned_images_is_refused(checkout, uncached, tree, refused):
    write_tree(checkout / "more", {"CT-MRI": ("37003",)})
    assert "lacks 10 pinned images" in refused("data", "import", "more", "--add")
    assert git(checkout, "diff", PIN) == "" and not (checkout / "data").exists()


def test_a_new_version_keeps_the_pinned_one_in_the_cache_or_is_refused(checkout, tree, fusion, refused, tmp_path):
    shutil.copytree(tree, checkout / "data")
    old, cache = read_pin(checkout).version, checkout / ".dvc" / "cache" / "files" / "md5"
    other = write_tree(tmp_path / "other", {"CT-MRI": ("37003",)})
    (checkout / "data" / "CT-MRI" / "CT" / "2004.png").unlink()
    assert "images of the pinned version would be dropped" in refused("data", "import", other, "--new-version")
    shutil.copytree(tree, checkout / "data", dirs_exist_ok=True)
    assert fusion("data", "import", other, "--new-version").returncode == 0
    assert (cache / old[:2] / old[2:]).is_file()


def test_a_linked_data_folder_is_refused(checkout, uncached, tree, refused, tmp_path):
    (tmp_path / "disk").mkdir()
    (checkout / "data").symlink_to(tmp_path / "disk")
    assert "data is a link, which an import cannot replace" in refused("data", "import", tree)
    assert (checkout / "data").is_symlink()


def test_a_source_is_looked_for_even_where_all_is_here(checkout, uncached, tree, fusion, refused):
    fill(checkout, tree)
    assert "no such folder or archive" in refused("data", "import", "/no/such.zip")
    assert f"nothing to do ({tree} was not read)" in fusion("data", "import", tree).stdout


def test_a_name_with_a_line_break_is_no_image(checkout, uncached, tree, refused):
    for modality in ("CT", "MRI"):
        (tree / "CT-MRI" / modality / "2004.png").rename(tree / "CT-MRI" / modality / "2004.png\n")
    assert "does not follow" in refused("data", "import", tree, "--new-version")
    assert leftovers(checkout) == []


def test_a_pipe_or_a_dangling_link_is_not_waited_for(checkout, uncached, tree, refused):
    os.mkfifo(tree / "CT-MRI" / "CT" / "2006.png")
    assert "is a pipe or a device" in refused("data", "import", tree)
    assert "is no file but" in refused("data", "verify", tree)
    (tree / "CT-MRI" / "CT" / "2006.png").unlink()
    (tree / "CT-MRI" / "CT" / "2006.png").symlink_to("nothing")
    assert "is no file but" in refused("data", "verify", tree)


# --- sources not to be trusted ----------------------------------------------------------------------------------------


def tar_of(place, *members, opened=open):
    """A tar file of members that say anything of themselves."""
    with opened(place, "wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            info.linkname = "/etc/passwd"
            tar.addfile(info, io.BytesIO(content))
    return place


def zip_of(place, *members):
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, mode, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            opened.writestr(info, content)
    return place


ZEROS = bytes(source.MAX_IMAGE_BYTES + 1)
FILE, LINK, DEVICE = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE
IMAGE = "CT-MRI/CT/2004.png"
HOSTILE = {
    "climbing.tar": (lambda at: tar_of(at, ("../../evil.png", FILE, b"x")), "leads out of it"),
    "absolute.tar": (lambda at: tar_of(at, ("/tmp/evil.png", FILE, b"x")), "leads out of it"),
    "link.tar": (lambda at: tar_of(at, (IMAGE, LINK, b"")), "a link or a device"),
    "hardlink.tar": (lambda at: tar_of(at, (IMAGE, tarfile.LNKTYPE, b"")), "a link or a device"),
    "device.tar": (lambda at: tar_of(at, (IMAGE, DEVICE, b"")), "a link or a device"),
    "large.tar.gz": (lambda at: tar_of(at, (IMAGE, FILE, ZEROS), opened=gzip.open), "larger than 16 MiB, the limit"),
    "total.tar.gz": (
        lambda at: tar_of(at, ("a", FILE, bytes(3 << 20)), ("b", FILE, b"")),
        "the limits, as a decompression",
    ),
    "header.tar.xz": (
        lambda at: tar_of(at, ("a", b"x", ZEROS * 2), opened=lzma.open),
        "the limits, as a decompression",
    ),
    "climbing.zip": (lambda at: zip_of(at, ("a/../../evil.png", 0o644, b"x")), "leads out of it"),
    "windows.zip": (lambda at: zip_of(at, ("..\\..\\evil.png", 0o644, b"x")), "leads out of it"),
    "drive.zip": (lambda at: zip_of(at, ("C:evil.png", 0o644, b"x")), "leads out of it"),
    "link.zip": (lambda at: zip_of(at, (IMAGE, 0o120777, b"/etc/passwd")), "a link or a device"),
    "large.zip": (lambda at: zip_of(at, (IMAGE, 0o644, ZEROS)), "larger than 16 MiB, the limit"),
    "two.zip": (lambda at: zip_of(at, (f"a/{IMAGE}", 0o644, b"x"), (f"b/{IMAGE}", 0o644, b"x")), "CT-MRI 2 times"),
    "none.zip": (lambda at: zip_of(at, ("README", 0o644, b"x")), "holds none of the folders CT-MRI/CT"),
    "text.zip": (lambda at: at.write_text("no archive") and at, "is no zip or tar archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(checkout, tmp_path, refused, monkeypatch, name):
    if name == "total.tar.gz":
        monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 2 << 20)
    make, complaint = HOSTILE[name]
    outside = sorted(path for path in tmp_path.iterdir())
    assert complaint in refused("data", "import", make(tmp_path / name))
    assert leftovers(checkout) == [] and sorted(set(tmp_path.iterdir()) - {tmp_path / name}) == outside


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "tar"])
def test_an_archive_cut_short_is_told_as_damaged(checkout, tree, tmp_path, refused, kind):
    place = tmp_path / f"a.{kind}"
    openers = {"tar.gz": gzip.open, "tar.xz": lzma.open, "tar": open}
    whole = zipped(tree, place) if kind == "zip" else packed(tree, place, openers[kind])
    # Tar ends in zeros that nobody misses, so the cut goes through the images.
    place.write_bytes(whole.read_bytes()[: place.stat().st_size // 2])
    assert "is damaged or encrypted" in refused("data", "import", place)
    assert not (checkout / "data").exists()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("absent", "no such folder or archive: absent; give one"),
        ("git+ftp://example.org/a", "give https://, ssh:// or file://"),
        ("git+file:///absent", "git cannot fetch file:///absent"),
        ("git+{public}@" + "0" * 40, "does not have the commit 0000"),
        ("git+{public}@v1", "'v1' is no full commit hash"),
        ("git+ssh://git@host.invalid/group/atlas@v1", "'v1' is no full commit hash"),
        ("git+https://user:secret@host.invalid/atlas@" + "0" * 40, "holds a user or password"),
        ("git+ext::sh -c touch% evil", "is no address of a git repository"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(checkout, public, refused, given, complaint):
    assert complaint in refused("data", "import", given.format(public=public[0]))
    assert leftovers(checkout) == [] and not (checkout / "evil").exists()


def test_hooks_of_the_user_do_not_run_and_git_asks_nothing(checkout, uncached, public, fusion, monkeypatch, tmp_path):
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-merge"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    (tmp_path / ".gitconfig").write_text(f"[core]\n\thooksPath = {hooks}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert fusion("data", "import").returncode == 0
    assert not (tmp_path / "ran").exists()


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path, checkout):
    """The checkout on a disk of its own that is soon full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk (root)")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_leaves_no_partial_data_and_the_next_run_continues(
    small_disk, checkout, tree, refused, fusion, monkeypatch
):
    place = small_disk / "checkout"
    place.mkdir()
    for name in (PIN, PAIRS):
        shutil.copy(checkout / name, place / name)
    monkeypatch.chdir(place)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(1 << 20))
    assert "the disk is full at" in refused("data", "import", tree)
    filler.write_bytes(bytes(12 << 10))
    assert "the disk is full at" in refused("data", "import", tree)
    there = {path.name: path.stat().st_mtime_ns for path in (place / "data.partial").rglob("*.png")}
    assert there and len(there) < 10 and not (place / "data").exists()
    filler.unlink()
    done = fusion("data", "import", tree)
    assert done.returncode == 0 and fusion("data", "verify").returncode == 0
    after = {path.name: path.stat().st_mtime_ns for path in (place / "data").rglob("*.png")}
    assert any(after[name] == when for name, when in there.items()), "what was written is not written again"


def test_two_imports_do_not_meet(checkout, tree, refused):
    import fcntl

    (checkout / "data.partial").mkdir()
    with (checkout / "data.partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another import is at work" in refused("data", "import", tree)


@pytest.mark.parametrize("name", [PIN, PAIRS])
def test_a_spoilt_pin_is_told_with_its_remedy(checkout, tree, refused, name):
    (checkout / name).write_text("outs: [")
    for command in ("status", "verify", "import"):
        assert f"git checkout {name}" in refused("data", command)
    (checkout / name).unlink()
    assert "git checkout" in refused("data", "status") or "no data.dvc" in refused("data", "status")


def test_a_listing_of_another_version_is_not_believed(checkout, refused):
    lines = (checkout / PAIRS).read_text().splitlines(keepends=True)
    (checkout / PAIRS).write_text("".join(lines[:-1]))
    assert "does not list version" in refused("data", "import")


# --- DVC's remote -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3():
    """A real HTTP server that speaks S3; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3, checkout, monkeypatch):
    """An empty server with one bucket, and the environment that leads there; yields the bucket's address."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": s3,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    ask(f"{s3}/moto-api/reset")
    import boto3

    boto3.client("s3").create_bucket(Bucket="ours")
    return "s3://ours/at/dvc"


def ask(url, body=b""):
    request = urllib.request.Request(url, body, {"Content-Type": "text/plain"}, method="POST")
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def test_dvc_itself_pushes_pulls_and_tells_the_status(checkout, bucket, tree, fusion, tmp_path):
    fill(checkout, tree)
    assert dvc(checkout, "remote", "modify", "--local", "atlas", "url", bucket).returncode == 0
    assert git(checkout, "status", "--short") == "", "the bucket of this machine is nobody else's"
    pushed = dvc(checkout, "push")
    assert pushed.returncode == 0 and "11 files pushed" in pushed.stdout, pushed
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(checkout), str(other))
    shutil.copy(checkout / ".dvc" / "config.local", other / ".dvc")
    pulled = dvc(other, "pull")
    assert pulled.returncode == 0, pulled
    assert folder_version(other / "data") == folder_version(tree)
    assert dvc(other, "status").stdout == "Data and pipelines are up to date.\n"


def test_fusion_shares_that_cache_and_remote(checkout, bucket, tree, fusion, monkeypatch, tmp_path):
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", bucket)
    fill(checkout, tree)
    assert fusion("data", "push").stdout.startswith(f"{bucket} holds version")
    assert "lacks nothing" in fusion("data", "status", "--cloud").stdout
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(checkout), str(other))
    monkeypatch.chdir(other)
    assert "5 pairs" in fusion("data", "pull").stdout
    assert folder_version(other / "data") == folder_version(tree)
    monkeypatch.delenv("ATLAS_FUSION_REMOTE")
    shutil.rmtree(other / "data")
    shutil.rmtree(other / ".dvc" / "cache")
    shutil.rmtree(other / ".git")
    assert fusion("data", "import", bucket).returncode == 0, "a checkout without git (an archive of it) works, too"
    assert folder_version(other / "data") == folder_version(tree)


def test_what_s3_refuses_is_one_line(checkout, bucket, tree, s3, refused, fusion, monkeypatch):
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", bucket)
    said = refused("data", "pull")
    assert f"{bucket} does not hold version" in said and "fusion data push" in said
    assert "run `fusion data import` first" in refused("data", "push")
    assert "there is no bucket for s3://absent/x; create it" in refused("data", "import", "s3://absent/x")
    ask(f"{s3}/moto-api/reset-auth", b"0")
    try:
        assert "S3 refuses the credentials for s3://ours/at/dvc" in refused("data", "pull")
    finally:
        ask(f"{s3}/moto-api/reset-auth", b"inf")
    assert not (checkout / "data").exists()
    fill(checkout, tree)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert "cannot reach http://127.0.0.1:9 for s3://ours" in refused("data", "push")
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", "ours/at/dvc")
    assert "give s3://BUCKET/PREFIX" in refused("data", "push")
    assert "DVC has no remote spare; there are atlas" in refused("data", "push", "--remote", "spare")


# --- descriptions -----------------------------------------------------------------------------------------------------


def test_a_description_counts_draws_and_loads_nothing(checkout, tree, fusion, refused, tmp_path):
    done = fusion("data", "describe", tree, "-o", tmp_path / "out")
    assert done.stdout.splitlines()[0] == "CT-MRI     3 pairs of 2 subjects"
    facts = json.loads((tmp_path / "out" / "description.json").read_text())
    ct = facts["collections"][0]["modalities"]["CT"]
    levels = np.stack([np.array(Image.open(path)) for path in (tree / "CT-MRI" / "CT").iterdir()])
    assert ct["mean"] == pytest.approx(levels.mean(), abs=0.01)
    assert ct["standard_deviation"] == pytest.approx(levels.std(), abs=0.01)
    assert ct["percentiles"]["50"] == pytest.approx(np.median(levels[levels > 0]), abs=1)
    assert ct["saturated"] == pytest.approx((levels == 255).mean(), abs=1e-4)
    assert facts["collections"][1]["modalities"]["PET"]["in_colour"] == 2
    assert (tmp_path / "out" / "pairs.csv").read_text().splitlines()[1] == "CT-MRI,2,2,004,005"
    page = (tmp_path / "out" / "description.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("<svg") == 2 and facts["version"] in page
    with Image.open(tmp_path / "out" / "contact-sheet.png") as sheet:
        assert sheet.mode == "RGB" and sheet.width > 3 * 128 and np.array(sheet).std() > 20
    assert fusion("data", "describe", tree, "-o", tmp_path / "out").returncode == 0, "an older one is replaced"
    (tmp_path / "out" / "mine.txt").touch()
    assert "holds mine.txt, no description" in refused("data", "describe", tree, "-o", tmp_path / "out")
    assert "no such data folder" in refused("data", "describe", "-o", tmp_path / "new")


# --- the atlas --------------------------------------------------------------------------------------------------------


def test_the_committed_listing_is_of_the_committed_version():
    pin = read_pin(ROOT)
    assert pin.listed and pin.version == "ba8a63c0db60282bb5eaf078cf4e4613.dir"
    assert (pin.nfiles, pin.size) == (len(pin.files), 28284873)
    assert pin.meta["pairs"] == {"CT-MRI": 184, "PET-MRI": 269, "SPECT-MRI": 357}
    assert pin_text(pin) == (ROOT / PIN).read_text() and pairs_text(pin.files) == (ROOT / PAIRS).read_text()


def test_the_atlas_is_what_is_pinned(shared):
    pin, files = read_pin(ROOT), listing(shared / "atlas")
    assert files == pin.files
    assert sum((shared / "atlas" / path).stat().st_size for path in files) == pin.size


def test_the_root_is_found_from_below(checkout):
    (checkout / "a" / "b").mkdir(parents=True)
    assert find_root(checkout / "a" / "b") == checkout.resolve()
