"""Merge a lock resolved for the CPU build of torch and one for its CUDA build; see infra/lock.sh.

python infra/merge_locks.py cpu.lock cuda.lock
"""

import re
import sys
from pathlib import Path

_ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<rest>.*(?:\n[ \t].*)*)", re.MULTILINE)
_HEADER = "# Written by `make lock` from pyproject.toml; do not edit.\n"


def entries(lock: Path) -> dict[str, str]:
    """The lock's entries, hashes included, by package name."""
    return {match["name"]: match[0] for match in _ENTRY.finditer(lock.read_text())}


def main(cpu_lock: Path, cuda_lock: Path) -> None:
    """Write both locks of the project into the current folder."""
    cpu, cuda = entries(cpu_lock), entries(cuda_lock)
    cpu_hashes = re.findall(r"--hash=\S+", cpu["torch"])
    common = cpu | {"torch": " \\\n    ".join([cuda["torch"], *cpu_hashes])}
    extra = [entry for name, entry in cuda.items() if name not in cpu]
    Path("requirements.lock").write_text(_HEADER + "\n".join(common.values()) + "\n")
    Path("requirements-cuda.lock").write_text(_HEADER + "\n".join(extra) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
