"""DVC's cache and remote: what is damaged is not shared, the pin stays, and addresses show no password."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.ingest import dvc_command, dvc_push
from components.ingest.describe import describe_folder
from components.ingest.dvc_cache import is_cached
from components.ingest.dvc_command import fetch, into_cache
from components.ingest.dvc_config import cache_folder, configured_remote
from components.ingest.dvc_push import missing_on_remote, push
from components.ingest.pin import PAIRS, PIN, Pin, pairs_text, pin_text, read_pin
from components.ingest.staging import listing
from components.ingest.version import tree_version
from model.dicom_series import write_series
from model.errors import InputError
from model.volumes import Volume

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path):
    """Two CT-MR pairs."""
    generator = np.random.default_rng(0)
    for modality in ("CT", "MRI"):
        folder = tmp_path / "tree" / "CT-MRI" / modality
        folder.mkdir(parents=True)
        for name in ("2004", "16003"):
            Image.fromarray(generator.integers(0, 200, (32, 32), dtype=np.uint8)).save(folder / f"{name}.png")
    return tmp_path / "tree"


@pytest.fixture
def checkout(tmp_path, tree, monkeypatch):
    """A checkout with its data in place, pinned and not yet cached; its remote is a folder."""
    for name in list(os.environ):
        if name.startswith(("ATLAS_FUSION", "GIT_", "DVC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", str(tmp_path / "remote"))
    folder = tmp_path / "checkout"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    files = listing(tree)
    size = sum((tree / path).stat().st_size for path in files)
    (folder / PAIRS).write_text(pairs_text(files))
    (folder / PIN).write_text(pin_text(Pin(tree_version(files.items()), size, len(files), {"terms": "Free."}, files)))
    shutil.copytree(tree, folder / "data")
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


def place_of(folder, md5):
    return folder / md5[:2] / md5[2:]


def spoil(place):
    place.chmod(0o644)
    place.write_bytes(b"spoilt")


def test_hidden_files_are_none_of_the_data_for_dvc_either(checkout):
    before = (checkout / PIN).read_bytes()
    (checkout / "data" / ".DS_Store").write_text("x")
    (checkout / "data" / "CT-MRI" / ".hidden").mkdir()
    (checkout / "data" / "CT-MRI" / ".hidden" / "a").write_text("x")
    into_cache(checkout)
    assert (checkout / PIN).read_bytes() == before and is_cached(cache_folder(checkout), read_pin(checkout).version)
    told = subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=checkout, capture_output=True, text=True)
    assert told.stdout == "Data and pipelines are up to date.\n"


def test_the_pin_stays_where_dvc_makes_another_version(checkout):
    before = (checkout / PIN).read_bytes()
    (checkout / ".dvcignore").unlink()
    (checkout / "data" / ".DS_Store").write_text("x")
    with pytest.raises(InputError, match=r"not .* as data\.dvc pins"):
        into_cache(checkout)
    assert (checkout / PIN).read_bytes() == before


def test_a_damaged_object_is_not_pushed_and_its_advice_mends_it(checkout, tmp_path):
    into_cache(checkout)
    cache, pin, remote = cache_folder(checkout), read_pin(checkout), configured_remote(checkout)
    damaged = place_of(cache, next(iter(pin.files.values())))
    spoil(damaged)
    with pytest.raises(InputError, match=f"{damaged} in the DVC cache is damaged; remove it"):
        push(checkout, remote)
    assert not (tmp_path / "remote").exists()
    damaged.unlink()
    into_cache(checkout)
    push(checkout, remote)
    assert place_of(tmp_path / "remote" / "files" / "md5", pin.version).is_file()


def test_a_push_that_leaves_the_listing_out_is_told(checkout, monkeypatch):
    into_cache(checkout)
    run = dvc_push.run_dvc
    asks = ("status",)
    monkeypatch.setattr(dvc_push, "run_dvc", lambda *given, **more: run(*given, **more) if given[2] in asks else "[]")
    with pytest.raises(InputError, match=r"lacks [0-9]+ files of version"):
        push(checkout, configured_remote(checkout))


def test_the_remote_itself_is_asked_for_every_file_and_a_push_stores_what_dvc_believes_is_there(checkout, tmp_path):
    into_cache(checkout)
    pin, remote = read_pin(checkout), configured_remote(checkout)
    push(checkout, remote)
    lost = sorted(set(pin.files.values()))[:2]
    for md5 in lost:
        place_of(tmp_path / "remote" / "files" / "md5", md5).unlink()
    damaged = place_of(tmp_path / "remote" / "files" / "md5", sorted(set(pin.files.values()))[2])
    damaged.chmod(0o644)
    damaged.write_bytes(bytes(damaged.stat().st_size))
    lost.append(damaged.parent.name + damaged.name)
    assert missing_on_remote(checkout, remote, pin) == lost
    push(checkout, remote)
    assert missing_on_remote(checkout, remote, pin) == []


def test_an_address_with_a_hash_or_a_comma_is_where_it_says(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", str(tmp_path / "pre#fix, 'b'"))
    into_cache(checkout)
    push(checkout, configured_remote(checkout))
    assert place_of(tmp_path / "pre#fix, 'b'" / "files" / "md5", read_pin(checkout).version).is_file()
    assert not (tmp_path / "pre").exists()


def test_a_fetch_mends_the_cache_and_keeps_nothing_damaged(checkout, tmp_path):
    into_cache(checkout)
    cache, pin, remote = cache_folder(checkout), read_pin(checkout), configured_remote(checkout)
    push(checkout, remote)
    image = next(iter(pin.files.values()))
    for md5 in (image, pin.version):
        spoil(place_of(cache, md5))
    fetch(checkout, remote, pin, lambda *_: None)
    push(checkout, remote)
    there = place_of(tmp_path / "remote" / "files" / "md5", image)
    spoil(there)
    place_of(cache, image).unlink()
    with pytest.raises(InputError, match="holds 1 damaged objects, such as files/md5/"):
        fetch(checkout, remote, pin, lambda *_: None)
    assert not place_of(cache, image).exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host/x", "https://***@host/x"),
        ("https://user:sec@secret@host/a@b", "https://***@host/a@b"),
        ("user:secret@host/x", "***@host/x"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("/disk/a@b", "/disk/a@b"),
    ],
)
def test_the_text_of_a_remote_has_no_password(checkout, monkeypatch, url, shown):
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", url)
    remote = configured_remote(checkout)
    assert remote.url == url and str(remote) == shown and "secret" not in repr(remote)
    said = f"ERROR: failed to reach {url} - no route"
    assert "secret" not in dvc_command._explained(said, remote, "push", checkout)


def test_a_description_touches_none_of_its_neighbours(tree, tmp_path, monkeypatch):
    place = tmp_path / "place"
    for name in ("out.old", "out.partial"):
        (place / name).mkdir(parents=True)
        (place / name / "mine").touch()
    for _ in range(2):
        describe_folder(tree, place / "out")
    assert sorted(path.name for path in place.iterdir()) == ["out", "out.old", "out.partial"]
    assert all((place / name / "mine").is_file() for name in ("out.old", "out.partial"))
    (place / "out" / "description.json").unlink()
    with pytest.raises(InputError, match=r"holds contact-sheet\.png, no description"):
        describe_folder(tree, place / "out")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    describe_folder(tree, Path())
    assert Path("description.html").is_file() and len(list(here.iterdir())) == 4


def test_a_series_is_written_to_the_folder_one_stands_in(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write_series(Path(), Volume(np.full((2, 8, 8), 0.5, np.float32), np.eye(4)))
    assert sorted(path.name for path in here.iterdir()) == ["0001.dcm", "0002.dcm"]
