"""`fusion data import --new-version` and `--add`: a version shows as a diff of pairs, and nothing is lost by it."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from components.ingest.pin import PAIRS, PIN, pairs_text, pin_text, read_pin
from components.ingest.staging import listing
from components.ingest.version import folder_version
from tests.datasets import dvc, fill, git, leftovers, swap, write_image, write_tree, zipped

ROOT = Path(__file__).parents[2]


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


def test_a_name_with_a_line_break_is_no_image(checkout, uncached, tree, refused):
    for modality in ("CT", "MRI"):
        (tree / "CT-MRI" / modality / "2004.png").rename(tree / "CT-MRI" / modality / "2004.png\n")
    assert "does not follow" in refused("data", "import", tree, "--new-version")
    assert leftovers(checkout) == []


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
