"""A checkpoint comes back as it was, and the newest counts; nothing damaged or foreign is trained on."""

import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from model import checkpoint_format
from model.checkpoint import CheckpointFolder, outdated
from model.checkpoint_format import Checkpoint, Damaged, packed, unpacked
from model.errors import InputError
from tests.checkpoints import IDENTITY, assert_same, checkpoint, names

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.uint8,
    torch.int64,
    torch.int32,
    torch.bool,
]


def test_the_newest_comes_back_as_it_was_and_two_are_kept(place, lines):
    assert place.latest() is None
    for step in (100, 200, 1200):
        place.save(checkpoint(step))
    assert_same(place.latest(), checkpoint(1200))
    assert names(place.folder) == ["step-00000200.safetensors", "step-00001200.safetensors"]
    assert_same(CheckpointFolder(place.folder, IDENTITY).latest(), checkpoint(1200))
    assert not lines


def test_a_step_is_saved_again_in_its_place(place):
    place.save(checkpoint(1, size=3))
    place.save(checkpoint(1))
    assert_same(place.latest(), checkpoint(1))


@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)), max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    st.integers(0, 10**9),
)
def test_any_tensors_and_facts_come_back(shapes, fact, step):
    generator = torch.Generator().manual_seed(step)
    tensors = {
        f'"digest":"{"0" * 64}"{number}': torch.randint(0, 2, shape, generator=generator).to(dtype)
        for number, (dtype, shape) in enumerate(shapes)
    }
    kept = Checkpoint(step, tensors, {"fact": fact})
    assert_same(unpacked(packed(kept, IDENTITY), IDENTITY, "here"), kept)


def test_tensors_that_share_memory_or_are_not_contiguous_are_kept_by_value(place):
    weights = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    kept = Checkpoint(1, {"a": weights, "b": weights, "c": weights[1:, :, ::2]}, {})
    place.save(kept)
    assert_same(place.latest(), kept)


def test_a_single_flipped_byte_anywhere_is_refused():
    data = packed(checkpoint(7, size=20), IDENTITY)
    for position in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            flipped = bytearray(data)
            flipped[position] ^= flip
            with pytest.raises(Damaged):
                unpacked(bytes(flipped), IDENTITY, "here")


@given(st.binary(max_size=200) | st.integers(0, 10**4).map(lambda size: packed(checkpoint(1), IDENTITY)[:size][:-1]))
def test_whatever_is_no_checkpoint_or_only_its_beginning_is_refused(data):
    with pytest.raises(Damaged):
        unpacked(data, IDENTITY, "here")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def become_weights(path: Path) -> None:
    save_file({"weights": torch.zeros(3)}, path)


def become_a_pickle(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [flip, truncate, empty, become_weights, become_a_pickle, become_a_folder])
def test_a_damaged_one_is_refused_by_name_and_the_one_before_is_used(place, lines, spoil):
    place.save(checkpoint(1))
    place.save(checkpoint(2))
    spoil(place.path(2))
    assert_same(place.latest(), checkpoint(1))
    (line,) = lines
    assert str(place.path(2)) in line and "is refused" in line and "an older one is looked for" in line
    assert "\n" not in line


def test_when_none_is_whole_it_is_said_that_training_starts_from_the_beginning(place, lines):
    place.save(checkpoint(1))
    place.save(checkpoint(2))
    for step in (1, 2):
        flip(place.path(step))
    assert place.latest() is None
    assert [str(place.path(2)) in lines[0], str(place.path(1)) in lines[1]] == [True, True]
    assert "starts from the beginning" in lines[2]


def test_a_damaged_one_never_takes_the_place_of_a_whole_one(place):
    for step in (1, 2, 3):
        place.save(checkpoint(step))
    flip(place.path(3))
    assert place.latest().step == 2
    place.save(checkpoint(4))  # beyond the damaged one, as when fewer steps lie between two saves
    assert names(place.folder) == [f"step-0000000{step}.safetensors" for step in (2, 3, 4)]
    place.save(checkpoint(5))
    assert names(place.folder) == [f"step-0000000{step}.safetensors" for step in (4, 5)]


def test_a_damaged_one_that_is_saved_again_counts_as_whole(place):
    for step in (1, 2):
        place.save(checkpoint(step))
        flip(place.path(step))
    assert place.latest() is None
    for step in (1, 2, 3):
        place.save(checkpoint(step))
        assert_same(place.latest(), checkpoint(step))
    assert names(place.folder) == [f"step-0000000{step}.safetensors" for step in (2, 3)]


@given(st.sets(st.integers(0, 20)), st.integers(0, 20), st.sets(st.integers(0, 20)), st.integers(1, 4))
def test_what_goes_is_never_the_one_just_saved_nor_one_of_the_newest_whole(steps, saved, refused, keep):
    gone = set(outdated(steps | {saved}, saved, refused - {saved}, keep))
    whole = {step for step in steps | {saved} if step not in refused - {saved}}
    kept = sorted(step for step in whole - gone if step <= saved)
    assert saved in kept and len(kept) == min(keep, len([step for step in whole if step <= saved]))
    assert gone <= {step for step in steps if step < min(kept)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"network": "msrpan"}, 'network is "dilran" there and "msrpan" here'),
        ({"loss": {"gradient": 0.5}}, r"loss\.gradient is 0\.2 there and 0\.5 here"),
        ({"processes": 4}, "processes is 2 there and 4 here"),
        ({"seed": 1}, "seed is not set there and 1 here"),
    ],
)
def test_a_foreign_one_is_refused_with_what_differs_and_what_to_do(place, lines, change, told):
    place.save(checkpoint(1))
    other = CheckpointFolder(place.folder, IDENTITY | change, report=lines.append)
    with pytest.raises(InputError, match=told) as refusal:
        other.latest()
    assert str(place.path(1)) in str(refusal.value)
    assert "name another folder for checkpoints, or delete it" in str(refusal.value)
    assert "network" in change or "network" not in str(refusal.value)
    place.path(1).unlink()
    assert other.latest() is None and not lines


def test_an_identity_of_tuples_is_itself_when_it_comes_back(tmp_path):
    place = CheckpointFolder(tmp_path, {"crop": (32, 32), "levels": None})
    place.save(checkpoint(1))
    assert place.latest().step == 1


def test_a_format_of_another_version_of_the_program_is_told(place, lines, monkeypatch):
    monkeypatch.setattr(checkpoint_format, "VERSION", "2")
    place.save(checkpoint(1))
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"step-00000001\.safetensors is a checkpoint of format 2, .* reads 1; go on"):
        place.latest()


def test_facts_that_json_cannot_hold_are_no_partial_checkpoint(place):
    with pytest.raises(TypeError):
        place.save(Checkpoint(1, {}, {"path": Path("x")}))
    assert not place.folder.exists()
    with pytest.raises(InputError, match="keep at least 1"):
        CheckpointFolder(place.folder, IDENTITY, keep=0)


def test_a_place_that_is_no_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        place = CheckpointFolder(folder, IDENTITY)
        with pytest.raises(InputError, match=rf"cannot write the checkpoint {re.escape(str(folder))}"):
            place.save(checkpoint(1))
        with pytest.raises(InputError, match=r"cannot read the checkpoints in .*; check the place"):
            place.latest()


def test_by_default_the_line_goes_to_stderr(tmp_path, capsys):
    place = CheckpointFolder(tmp_path, IDENTITY)
    place.save(checkpoint(1))
    flip(place.path(1))
    place.latest()
    assert "is refused" in capsys.readouterr().err
