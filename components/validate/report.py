"""The judgement on a dataset, as the validate step writes it and the next step obeys it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from model.errors import InputError


@dataclass(frozen=True)
class Finding:
    """An expectation that does not hold.

    `count` images offend; `files` are the first ten of them and `details`, in the same order, what was measured there.
    An expectation on the dataset as a whole names no file, one on drift the images furthest away: its `complaint` says
    what was found.
    """

    sentence: str
    complaint: str
    count: int
    files: tuple[str, ...]
    details: tuple[str, ...]


@dataclass(frozen=True)
class ValidationReport:
    """The judgement on one dataset, which `passed` unless something critical failed.

    `skipped` says what was not judged. The file holds the `statistics` of the data too, which travel with the model.
    """

    passed: bool
    images: int
    pairs: int
    subjects: int
    expectations: int
    critical_failures: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    skipped: tuple[str, ...]

    def require_passed(self) -> None:
        """Raise InputError, all critical failures in one line, where the dataset did not pass."""
        if not self.passed:
            complaints = "; ".join(finding.complaint for finding in self.critical_failures)
            raise InputError(f"validation failed: {complaints}")

    @classmethod
    def read(cls, path: Path) -> ValidationReport:
        """The judgement that the validate step wrote as JSON."""
        told = json.loads(path.read_text())
        findings = {
            kind: tuple(
                Finding(**finding | {"files": tuple(finding["files"]), "details": tuple(finding["details"])})
                for finding in told[kind]
            )
            for kind in ("critical_failures", "warnings")
        }
        return cls(
            **{field.name: told[field.name] for field in fields(cls)} | findings | {"skipped": tuple(told["skipped"])}
        )
