"""`fusion data import` that is cut off: a full disk, another import, a kill at any step; the next command goes on."""

import shutil
import subprocess

import pytest

from components.ingest.pin import PAIRS, PIN


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
