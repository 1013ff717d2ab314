"""Look every locked package up in the advisories of the Python Package Index, by pip-audit.

python infra/audit.py      (`make audit`; exit code 1 for a vulnerability without a reason in IGNORED)
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
IGNORED: dict[str, str] = {}
"""Advisories (CVE-..., GHSA-..., PYSEC-...) that do not reach us, each with the reason."""


def pinned(locks: Iterable[Path]) -> list[str]:
    """Every package of the locks, as name==version."""
    text = "\n".join(lock.read_text() for lock in locks)
    return sorted(set(re.findall(r"^([\w.-]+==[\w.+!-]+)", text, re.MULTILINE)))


def asked(packages: list[str]) -> list[dict[str, Any]]:
    """What pip-audit knows of each package: its `vulns`, or why it was skipped; RuntimeError if it fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(packages))
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", file.name, "--disable-pip", "--no-deps"]
        command += ["--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True)
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer") from None


def told(found: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What to print of the answers, and the exit code."""
    known = [package for package in found if "vulns" in package]
    if not known:
        return [f"skipped: the advisories of {len(found)} packages; the index here has none of them"], 0
    lines, open_ones = [], 0
    for package in known:
        for advisory in package["vulns"]:
            names = {advisory["id"], *advisory.get("aliases", [])}
            reason = next((IGNORED[name] for name in names if name in IGNORED), "")
            open_ones += not reason
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            what = reason or f"fixed in {fixed}: delete its pin and `make lock`, or say in IGNORED why it is harmless"
            lines.append(f"{package['name']} {package['version']}: {advisory['id']}: {what}")
    lines += [f"skipped: {each['name']}: {each['skip_reason']}" for each in found if "skip_reason" in each]
    return [*lines, f"{len(known)} packages looked up, {open_ones or 'no'} open advisories"], int(open_ones > 0)


def main() -> int:
    """Exit code: 0 if nothing is known against the locks, or nobody can be asked; 1 for an open advisory."""
    packages = pinned(LOCKS)
    try:
        lines, code = told(asked(packages))
    except RuntimeError as error:
        lines, code = [f"skipped: the advisories of {len(packages)} packages; pip-audit says: {error}"], 0
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
