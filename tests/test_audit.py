"""What `make audit` makes of pip-audit's answers: a vulnerability fails it, and it says so if nobody was asked."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "infra"))
import audit

CLEAN = {"name": "torch", "version": "2.13.0", "vulns": []}
HIT = {
    "name": "pillow",
    "version": "13.0.0",
    "vulns": [{"id": "PYSEC-2026-1", "aliases": ["CVE-2026-9"], "fix_versions": ["13.0.1"]}],
}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found on PyPI"}


def test_every_pin_of_the_locks_is_asked_for():
    pins = audit.pinned(audit.LOCKS)
    assert {"mlflow", "torch", "kfp"} <= {pin.partition("==")[0] for pin in pins} and len(pins) > 100
    assert all(pin.count("==") == 1 for pin in pins)


def test_a_vulnerability_fails_the_audit_until_there_is_a_reason(monkeypatch):
    lines, code = audit.told([CLEAN, HIT])
    assert code == 1 and "pillow 13.0.0: PYSEC-2026-1: fixed in 13.0.1" in lines[0]
    monkeypatch.setattr(audit, "IGNORED", {"CVE-2026-9": "only of the JPEG 2000 writer, which nothing here calls"})
    lines, code = audit.told([CLEAN, HIT])
    assert code == 0 and "which nothing here calls" in lines[0]


def test_what_could_not_be_asked_is_told():
    assert audit.told([UNKNOWN])[0][0].startswith("skipped: the advisories of 1 packages")
    lines, code = audit.told([CLEAN, UNKNOWN])
    assert code == 0 and lines[0].startswith("skipped: ours") and lines[-1].startswith("1 packages looked up, no open")


def test_every_exception_has_a_reason():
    assert all(len(reason.split()) > 3 for reason in audit.IGNORED.values())


def test_an_audit_that_cannot_run_is_told(monkeypatch, capsys):
    def fails(packages):
        raise RuntimeError("no connection")

    monkeypatch.setattr(audit, "asked", fails)
    assert audit.main() == 0 and capsys.readouterr().out.startswith("skipped: the advisories of")


@pytest.mark.parametrize("text", ["a==1.0 \\\n    --hash=sha256:ab\nb==2.0+cpu\n# c==3\n"])
def test_hashes_and_comments_are_no_pins(tmp_path, text):
    (tmp_path / "some.lock").write_text(text)
    assert audit.pinned([tmp_path / "some.lock"]) == ["a==1.0", "b==2.0+cpu"]
