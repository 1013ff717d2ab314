"""A checkpoint is there whole or not at all, whoever kills the process; nothing damaged or foreign is trained on."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from model import checkpoint as checkpoint_module
from model import checkpoint_format
from model.checkpoint import CheckpointFolder, outdated
from model.checkpoint_format import Checkpoint, Damaged, packed, unpacked
from model.errors import InputError

IDENTITY = {"network": "dilran", "loss": {"gradient": 0.2}, "processes": 2}
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


def checkpoint(step: int, size: int = 50) -> Checkpoint:
    tensors = {"weights": torch.full((size,), float(step)), "random": torch.get_rng_state()[:80]}
    return Checkpoint(step, tensors, {"sampler": {"epoch": 1, "position": step}, "best": 0.1})


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert (found.step, found.facts, set(found.tensors)) == (expected.step, expected.facts, set(expected.tensors))
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype and torch.equal(found.tensors[name], tensor), name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def lines():
    return []


@pytest.fixture
def place(tmp_path, lines):
    return CheckpointFolder(tmp_path / "a" / "checkpoints", IDENTITY, report=lines.append)


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


def in_a_child(work) -> int:
    """The wait status of a child process that does the work and exits with 0."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def killed_at(line: int):
    """A trace function that kills this process before it runs that line, counted from 1, of the checkpoints' code."""
    files, seen = {checkpoint_module.__file__, checkpoint_format.__file__}, 0

    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename not in files:
            return None
        seen += event == "line"
        if seen == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def test_killed_before_any_line_of_a_save_the_checkpoint_before_or_the_new_one_is_whole(tmp_path, lines):
    before = CheckpointFolder(tmp_path / "before", IDENTITY)
    for step in (1, 2):
        before.save(checkpoint(step))
    (before.folder / "step-00000009.safetensors.partial").write_bytes(b"of a save killed earlier")
    outcomes = []
    for line in range(1, 1000):
        place = CheckpointFolder(tmp_path / str(line), IDENTITY, report=lines.append)
        shutil.copytree(before.folder, place.folder)

        def save(line=line, place=place):
            sys.settrace(killed_at(line))
            place.save(checkpoint(3))

        status = in_a_child(save)
        found = place.latest()
        assert_same(found, checkpoint(found.step))
        outcomes.append(found.step)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        place.save(checkpoint(4))
        assert_same(place.latest(), checkpoint(4))
        assert len(names(place.folder)) == 2
    assert status == 0 and line > 40 and not lines
    assert outcomes == sorted(outcomes) and set(outcomes) == {2, 3}
    assert names(place.folder) == ["step-00000002.safetensors", "step-00000003.safetensors"]


def test_killed_after_any_number_of_written_bytes_the_checkpoint_before_is_whole(place, lines):
    place.save(checkpoint(1))
    whole = place.path(1).stat().st_size
    for written in (0, 1, 8, 100, whole // 2, whole - 1):

        def save(written=written):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
            place.save(checkpoint(2))

        assert os.WTERMSIG(in_a_child(save)) == signal.SIGXFSZ
        assert (place.folder / "step-00000002.safetensors.partial").stat().st_size == written
        assert_same(place.latest(), checkpoint(1))
    place.save(checkpoint(3))
    assert names(place.folder) == ["step-00000001.safetensors", "step-00000003.safetensors"]
    assert not lines


def test_killed_at_random_while_it_saves_on_and_on(place, lines):
    """The only kill that knows nothing of the code: by another process, whenever it happens to come."""

    def save_on_and_on():
        step = 0
        while True:
            step += 1
            place.save(checkpoint(step))
            os.write(writing, b".")

    for kill in range(10):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                save_on_and_on()
            finally:
                os._exit(1)
        os.close(writing)
        saved = sum(len(os.read(reading, 1)) for _ in range(3 + kill))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reading, 1000):
            saved += len(more)
        os.close(reading)
        found = place.latest()
        assert found.step in (saved, saved + 1)
        assert_same(found, checkpoint(found.step))
        for path in place.folder.iterdir():
            path.unlink()
    assert not lines


def test_nothing_is_removed_before_the_new_one_would_outlive_a_loss_of_power(place, monkeypatch):
    place.save(checkpoint(1))
    place.save(checkpoint(2))
    (place.folder / "step-00000009.safetensors.partial").touch()
    done = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(f"sync {kind(handle)}"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    monkeypatch.setattr(os, "unlink", lambda path: (done.append(f"remove {Path(path).name[:13]}"), unlink(path)))
    place.save(checkpoint(3))
    assert done[:3] == ["sync file", "rename", "sync folder"]
    assert sorted(done[3:]) == ["remove step-00000001", "remove step-00000009"]


def kind(handle: int) -> str:
    return "folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file"  # noqa: PTH112


@contextmanager
def small_disk(folder: Path):
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs to be root, to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_and_the_checkpoints_from_before_are_there(place):
    with small_disk(place.folder):
        place.save(checkpoint(1))
        with pytest.raises(InputError, match=r"no space left for .*step-00000002\.safetensors: .*; free space") as told:
            place.save(checkpoint(2, size=20_000))
        assert "\n" not in str(told.value)
        assert names(place.folder) == ["step-00000001.safetensors"]
        assert_same(place.latest(), checkpoint(1))
        place.save(checkpoint(2))
        assert_same(place.latest(), checkpoint(2))


def test_a_disk_that_became_read_only_is_told(place):
    with small_disk(place.folder):
        place.save(checkpoint(1))
        subprocess.run(["mount", "-o", "remount,ro", place.folder], check=True)
        with pytest.raises(
            InputError, match=r"cannot write .*step-00000002\.safetensors: Read-only .*; check the place"
        ):
            place.save(checkpoint(2))
        assert_same(place.latest(), checkpoint(1))


def test_a_file_larger_than_allowed_is_told_and_leaves_no_partial(place):
    place.save(checkpoint(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match=r"no space left for .*step-00000002\.safetensors"):
            place.save(checkpoint(2, size=2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(place.folder) == ["step-00000001.safetensors"]
    assert_same(place.latest(), checkpoint(1))


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
