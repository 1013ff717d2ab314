"""Shards read as one array does, whatever is asked of them, and keep few files open."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import shards
from model.errors import InputError
from model.shards import Shards, write_shards

ROW = (2, 6, 5)
COUNT = 11


@pytest.fixture(scope="module")
def array():
    return np.random.default_rng(0).integers(0, 256, (COUNT, *ROW), np.uint8)


@pytest.fixture(scope="module")
def folders(array, tmp_path_factory):
    """The same rows in shards of every size from one row to all."""
    found = {}
    for a_shard in range(1, COUNT + 1):
        folder = tmp_path_factory.mktemp("shards")
        found[a_shard] = Shards(folder, write_shards(folder, "x", iter(array), COUNT, ROW, a_shard), ROW)
    return found


SLICES = st.builds(slice, *[st.none() | st.integers(-13, 13)] * 2, st.none() | st.sampled_from([-2, -1, 1, 3]))
ROWS = st.integers(-COUNT, COUNT - 1)
KEYS = st.one_of(
    ROWS,
    SLICES,
    st.lists(ROWS, max_size=5),
    st.tuples(ROWS, st.integers(0, 1)),
    st.tuples(ROWS, st.integers(0, 1), SLICES, SLICES),
    st.tuples(SLICES, st.integers(0, 1)),
    st.tuples(st.just(...), SLICES, SLICES),
    st.tuples(SLICES, st.just(...), SLICES),
)


@given(a_shard=st.integers(1, COUNT), key=KEYS)
def test_shards_are_indexed_as_the_array_is(array, folders, a_shard, key):
    assert np.array_equal(folders[a_shard][key], array[key])


def test_shape_and_type_are_the_arrays(array, folders):
    assert all(
        (found.shape, found.dtype, len(found)) == (array.shape, array.dtype, COUNT) for found in folders.values()
    )
    assert all(np.array_equal(np.asarray(found), array) for found in folders.values())
    for number in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError):
            folders[3][number]


def test_what_is_read_cannot_be_written(folders):
    with pytest.raises(ValueError, match="read-only"):
        folders[4][0][...] = 0


def test_few_files_are_open_at_a_time(array, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "OPEN_SHARDS", 2)
    found = Shards(tmp_path, write_shards(tmp_path, "x", iter(array), COUNT, ROW, 1), ROW)
    assert len(found._open) == 0
    for number in (0, 5, 10, 5, 0, 10):
        assert np.array_equal(found[number], array[number])
        assert len(found._open) <= 2


def test_an_array_without_rows_is_one_file(tmp_path):
    found = Shards(tmp_path, write_shards(tmp_path, "x", iter([]), 0, ROW), ROW)
    assert found.shape == (0, *ROW) and found[:].shape == (0, *ROW)
    assert np.load(tmp_path / "x.npy").shape == (0, *ROW)


def test_a_shard_of_another_shape_than_the_index_says_is_named(array, tmp_path):
    listed = write_shards(tmp_path, "x", iter(array), COUNT, ROW, 4)
    np.save(tmp_path / "x-00001.npy", array[:3])
    with pytest.raises(InputError, match=r"x-00001\.npy is uint8 \(3, 2, 6, 5\), its index says \(4, 2, 6, 5\)"):
        Shards(tmp_path, listed, ROW)
