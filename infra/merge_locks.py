"""Merge a lock resolved for the CPU build of torch and one for its CUDA build, and part them by use; see infra/lock.sh.

python infra/merge_locks.py cpu.lock cuda.lock runtime.lock     (the last has no development group, and no hashes)
"""

import re
import sys
from pathlib import Path

_ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<rest>.*(?:\n[ \t].*)*)", re.MULTILINE)
_HEADER = "# Written by `make lock` from pyproject.toml; do not edit.\n"


def entries(lock: Path) -> dict[str, str]:
    """The lock's entries, hashes included, by package name."""
    return {match["name"]: match[0] for match in _ENTRY.finditer(lock.read_text())}


def main(cpu_lock: Path, cuda_lock: Path, runtime_lock: Path) -> None:
    """Write the three locks of the project into the current folder."""
    cpu, cuda, runtime = entries(cpu_lock), entries(cuda_lock), entries(runtime_lock)
    cpu_hashes = re.findall(r"--hash=\S+", cpu["torch"])
    common = cpu | {"torch": " \\\n    ".join([cuda["torch"], *cpu_hashes])}
    parts = {
        "requirements.lock": {name: common[name] for name in runtime},
        "requirements-dev.lock": {name: entry for name, entry in common.items() if name not in runtime},
        "requirements-cuda.lock": {name: entry for name, entry in cuda.items() if name not in cpu},
    }
    for name, part in parts.items():
        Path(name).write_text(_HEADER + "\n".join(part.values()) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
