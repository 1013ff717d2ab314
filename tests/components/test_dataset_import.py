"""What `fusion data` stands on: names in archives, listings, differences, and continuing where an import stopped."""

from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.ingest.archive import check_member
from components.ingest.compare import compare_files, compare_pairs, pairs_by_collection
from components.ingest.layout import COLLECTIONS, find_images, image_path, is_image_path, partner
from components.ingest.pin import PAIRS, _read_pairs, pairs_text
from components.ingest.source import FolderSource
from components.ingest.staging import put_in_place, stage
from components.ingest.version import folder_version
from model.errors import InputError

NAMES = st.text(alphabet=["a", ".", "/", "\\", ":", "C", "\0", " ", "é"], max_size=12)
MD5S = st.text(alphabet="0123456789abcdef", min_size=32, max_size=32)
PAIR_KEYS = st.tuples(
    st.sampled_from(sorted(COLLECTIONS)), st.integers(1, 40).map(str), st.integers(0, 999).map("{:03d}".format)
)


@st.composite
def listings(draw):
    """Listings of pairs, relative path -> MD5."""
    files = {}
    for collection, subject, number in draw(st.lists(PAIR_KEYS, max_size=8, unique=True)):
        for modality in COLLECTIONS[collection]:
            files[image_path(collection, modality, subject + number)] = draw(MD5S)
    return files


@given(NAMES)
def test_no_member_that_is_let_in_leads_out(name):
    try:
        path = check_member(name, "a.zip")
    except InputError:
        return
    assert not PurePosixPath(path).is_absolute() and ".." not in path.replace("\\", "/").split("/")
    assert Path("/base", path).resolve().is_relative_to("/base")


@settings(max_examples=40)
@given(listings())
def test_a_listing_comes_back_from_its_file(tmp_path_factory, files):
    place = tmp_path_factory.mktemp("pin") / PAIRS
    place.write_text(pairs_text(files))
    assert _read_pairs(place) == files
    assert all(is_image_path(path) and partner(partner(path)) == path for path in files)
    assert sum(pairs_by_collection(files).values()) * 2 == len(files)


@settings(max_examples=40)
@given(listings(), listings())
def test_what_differs_is_told_once_and_both_ways(old, new):
    there, back = compare_files(old, new), compare_files(new, old)
    assert (there.missing, there.extra, there.changed) == (back.extra, back.missing, back.changed)
    assert bool(there) == (old != new)
    rebuilt = {path: md5 for path, md5 in old.items() if path not in there.missing + there.changed}
    assert rebuilt | {path: new[path] for path in there.extra + there.changed} == new
    told = {
        (each.collection, pair) for each in compare_pairs(old, new) for pair in each.added + each.removed + each.changed
    }
    differing = there.missing + there.extra + there.changed
    assert told == {(path.split("/")[0], path.split("/")[2][:-4]) for path in differing}


def test_collections_are_found_wherever_they_lie_but_only_once():
    paths = ["x/y/CT-MRI/CT/2004.png", "x/y/CT-MRI/MRI/2004.png", "z/PET-MRI/PET/1001.png", "x/CT/1.png", "README"]
    found = find_images([*paths, "x/y/CT-MRI/CT/.DS_Store", "x/y/CT-MRI/truth/bone/2004.png"], "it")
    assert found == {path.partition("/")[2].removeprefix("y/"): path for path in paths[:3]}
    with pytest.raises(InputError, match=r"CT-MRI 2 times \(x/y/CT-MRI, z/CT-MRI\)"):
        find_images([*paths, "z/CT-MRI/CT/2004.png"], "it")


class Cut(FolderSource):
    """A folder that is cut off after two files, the first time."""

    def __init__(self, folder):
        super().__init__(folder)
        self.asked = []

    def read(self, wanted):
        self.asked.append(set(wanted))
        for done, (key, content) in enumerate(super().read(wanted)):
            if done == 2 and len(self.asked) == 1:
                raise ConnectionError
            yield key, content


@pytest.fixture
def folder(tmp_path):
    """Three CT-MRI pairs."""
    for modality in ("CT", "MRI"):
        (tmp_path / "in" / "CT-MRI" / modality).mkdir(parents=True)
        for number in range(3):
            levels = np.random.default_rng([number, len(modality)]).integers(0, 200, (16, 16), dtype=np.uint8)
            Image.fromarray(levels).save(tmp_path / "in" / "CT-MRI" / modality / f"200{number + 1}.png")
    return tmp_path / "in"


def test_what_an_earlier_attempt_brought_is_not_read_again_unless_it_was_spoilt(folder, tmp_path):
    from components.ingest.staging import listing

    source, pinned, aside = Cut(folder), listing(folder), tmp_path / "aside"
    found = find_images(source.paths(), "it")
    with pytest.raises(ConnectionError):
        stage(source, found, pinned, aside, lambda *_: None)
    first, second = sorted(path for path in pinned if (aside / path).exists())
    (aside / second).write_bytes(b"spoilt")
    (aside / "CT-MRI" / "CT" / "9009.png").write_bytes(b"of another source")
    staged = stage(source, found, pinned, aside, lambda *_: None)
    assert source.asked[1] == set(pinned) - {first}
    assert staged.files == pinned and staged.faults == {} and folder_version(aside) == folder_version(folder)


def test_the_older_data_are_back_if_the_new_cannot_be_put_in_place(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path, tmp_path / "absent", tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["old"]
