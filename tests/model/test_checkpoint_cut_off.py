"""A checkpoint is there whole or not at all, whoever kills the process and whatever becomes of the disk."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from model import checkpoint as checkpoint_module
from model import checkpoint_format
from model.checkpoint import CheckpointFolder
from model.errors import InputError
from tests.checkpoints import IDENTITY, assert_same, checkpoint, names


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
