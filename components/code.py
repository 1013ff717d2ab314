"""Which code a run was made by: a digest of the steps' sources, and the git commit."""

import hashlib
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("model", "components")


def code_version(*files: Path) -> str:
    """A digest of the steps' sources, the lock and further `files`; with another one every cached step runs again."""
    digest = hashlib.sha256()
    for file in (_ROOT / "requirements.lock", *files):
        if file.is_file():
            digest.update(file.read_bytes())
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def git_commit() -> str:
    """The commit of the checkout this code runs from, with "-dirty" if it has changes; "unknown" elsewhere.

    The container image has no checkout; its build writes the commit into a file.
    """
    if not (_ROOT / ".git").exists():
        return _built_from()
    try:
        command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _built_from() -> str:
    try:
        return (_ROOT / "REVISION").read_text().strip() or "unknown"
    except OSError:
        return "unknown"
