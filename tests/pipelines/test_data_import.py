"""`fusion data import`, `status`, `verify`: a fresh clone is filled whole or not at all, and what differs is named."""

import bz2
import gzip
import json
import lzma
import os
import shutil
from pathlib import Path

import pytest

from components.ingest.pin import PAIRS, PIN, find_root, read_pin
from components.ingest.version import folder_version
from tests.datasets import dvc, fill, git, leftovers, packed, write_image, write_tree, zipped

ROOT = Path(__file__).parents[2]


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


def test_a_linked_data_folder_is_refused(checkout, uncached, tree, refused, tmp_path):
    (tmp_path / "disk").mkdir()
    (checkout / "data").symlink_to(tmp_path / "disk")
    assert "data is a link, which an import cannot replace" in refused("data", "import", tree)
    assert (checkout / "data").is_symlink()


def test_a_linked_data_folder_is_refused_and_told_though_it_is_complete(checkout, uncached, tree, fusion, refused):
    (checkout / "data").symlink_to(tree)
    for command in (("import",), ("import", tree), ("import", "data", "--new-version"), ("push",)):
        assert "data is a link" in refused("data", *command)
    assert "is a link, which neither DVC nor an import takes" in fusion("data", "status").stdout
    assert json.loads(fusion("data", "status", "--json").stdout)["link"] is True
    (checkout / "data").unlink()
    (checkout / "data").symlink_to("nowhere")
    assert "is a link" in fusion("data", "status").stdout and "data is a link" in refused("data", "import")


LITTER = [".DS_Store", "CT-MRI/.DS_Store", "CT-MRI/CT/Thumbs.db", "CT-MRI/MRI/desktop.ini", "CT-MRI/CT/._2004.png"]


def strew(folder):
    """What file managers leave in a folder."""
    for name in LITTER:
        (folder / name).write_bytes(b"\0\5\x16\7 resource fork" if "._" in name else b"Bud1")


def test_litter_of_an_operating_system_is_no_difference_and_is_never_pinned(checkout, tree, fusion, tmp_path):
    shutil.copy(ROOT / ".dvcignore", checkout / ".dvcignore")
    more = write_tree(tmp_path / "more", {"CT-MRI": ("37003", "2004")})
    for folder in (tree, more):
        strew(folder)
    assert fusion("data", "import", tree).stderr == "", "DVC passes over it, too"
    strew(checkout / "data")
    assert "complete, as pinned" in fusion("data", "status").stdout and fusion("data", "verify").returncode == 0
    assert "nothing to do" in fusion("data", "import").stdout
    assert fusion("data", "import", more, "--add").stderr == ""
    assert not {Path(path).name for path in read_pin(checkout).files} & {Path(path).name for path in LITTER}
    strew(checkout / "data")
    assert "+1 " not in (done := fusion("data", "import", "data", "--new-version")).stdout and done.stderr == ""
    assert dvc(checkout, "status").stdout == "Data and pipelines are up to date.\n"


@pytest.mark.parametrize("name", ["._notes.txt", "CT-MRI/Thumbs.db/mine", ".DS_Store/mine", "CT-MRI/thumbs.txt"])
def test_what_only_looks_like_litter_is_not_dropped(checkout, uncached, tree, refused, name):
    fill(checkout, tree)
    write_tree(checkout / "more", {"CT-MRI": ("37003",)})
    kept = checkout / "data" / name
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    assert f"such as {name}" in refused("data", "import", "more", "--add")
    assert kept.read_text() == "mine"


def test_a_source_is_looked_for_even_where_all_is_here(checkout, uncached, tree, fusion, refused):
    fill(checkout, tree)
    assert "no such folder or archive" in refused("data", "import", "/no/such.zip")
    assert f"nothing to do ({tree} was not read)" in fusion("data", "import", tree).stdout


def test_a_pipe_or_a_dangling_link_is_not_waited_for(checkout, uncached, tree, refused):
    os.mkfifo(tree / "CT-MRI" / "CT" / "2006.png")
    assert "is a pipe or a device" in refused("data", "import", tree)
    assert "is no file but" in refused("data", "verify", tree)
    (tree / "CT-MRI" / "CT" / "2006.png").unlink()
    (tree / "CT-MRI" / "CT" / "2006.png").symlink_to("nothing")
    assert "is no file but" in refused("data", "verify", tree)


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


def test_the_root_is_found_from_below(checkout):
    (checkout / "a" / "b").mkdir(parents=True)
    assert find_root(checkout / "a" / "b") == checkout.resolve()
