"""`fusion data import` that is cut off: a full disk, another import, a kill at any step; the next command goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from components.ingest.pin import PAIRS, PIN, read_pin
from components.ingest.staging import staging
from components.ingest.version import folder_version
from tests.datasets import fill, leftovers, write_tree, zipped

ROOT = Path(__file__).parents[2]


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


def test_status_tells_an_import_at_work_from_one_that_was_cut_off(checkout, tree, fusion):
    def said():
        facts = json.loads(fusion("data", "status", "--json").stdout)
        return fusion("data", "status").stdout, facts["running_import"], facts["interrupted_import"]

    with suppress(KeyboardInterrupt), staging(checkout) as folder:
        shutil.copytree(tree, folder / "tree")
        text, running, interrupted = said()
        assert "an import is at work in data.partial/ now" in text and "not here yet" in text
        assert (running, interrupted) == (True, False) and "interrupted" not in text
        raise KeyboardInterrupt
    text, running, interrupted = said()
    assert "an interrupted import waits in data.partial/" in text and "at work" not in text
    assert (running, interrupted) == (False, True)


def test_a_refused_addition_leaves_nothing_to_be_continued(checkout, uncached, tree, fusion, refused, tmp_path):
    fill(checkout, tree)
    more = zipped(write_tree(tmp_path / "more", {"CT-MRI": ("37003",)}), tmp_path / "more.zip")
    content = bytearray(more.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 255
    more.write_bytes(content)
    assert "damaged" in refused("data", "import", more, "--add")
    assert leftovers(checkout) == ["data"] and "interrupted" not in fusion("data", "status").stdout


KILLED = """
import os, signal, sys
from pathlib import Path
import components.ingest.importing as importing
left = int(sys.argv[1])
def dying(method):
    def call(self, target):
        global left
        if self.name.endswith(".png.partial"):
            return method(self, target)
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, target)
    return call
Path.rename, Path.replace = dying(Path.rename), dying(Path.replace)
importing.into_cache = lambda root: None
importing.import_dataset(Path.cwd(), "more", add=True)
"""


@pytest.mark.parametrize("renames", range(6))
@pytest.mark.parametrize("command", [("status",), ("verify",), ("import", "more", "--add")])
def test_a_kill_at_any_rename_leaves_one_version_with_its_own_pin(checkout, uncached, tree, fusion, renames, command):
    fill(checkout, tree)
    write_tree(checkout / "more", {"CT-MRI": ("37003",)})
    old, environment = read_pin(checkout), os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(renames)], env=environment, check=False)
    assert ended.returncode == (-signal.SIGKILL if renames < 5 else 0)
    done = fusion("data", *command)
    assert done.returncode == 0, done
    pin = read_pin(checkout)
    assert pin.listed and pin.version == folder_version(checkout / "data")
    placed = renames >= 3
    assert (pin.version != old.version) == (placed or command[0] == "import")
    if command == ("status",):
        assert ("is now finished: commit data.dvc" in done.stdout) == (placed and renames < 5)
        assert "complete, as pinned" in done.stdout
    assert fusion("data", "import", "more", "--add").returncode == 0
    assert leftovers(checkout) == ["data"] and read_pin(checkout).files.keys() == old.files.keys() | {
        f"CT-MRI/{modality}/37003.png" for modality in ("CT", "MRI")
    }
    assert read_pin(checkout).meta["earlier"] == [{"version": old.version, **old.meta["source"]}]
