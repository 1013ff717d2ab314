"""The packages depend on one another in one direction, and import nothing heavy or foreign where they must not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "model": {"components", "pipelines", "kfp", "mlflow", "dvc", "great_expectations", "kubernetes"},
    "components": {"pipelines"},
}
HEAVY = ("torch", "kfp", "mlflow", "great_expectations", "numpy", "pandas")


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_package_imports_from_above(package: str):
    for path in (ROOT / package).rglob("*.py"):
        assert not imported(path) & FORBIDDEN[package], path


def test_only_the_wrappers_import_kfp():
    for path in (ROOT / "components").rglob("*.py"):
        assert path.name == "component.py" or "kfp" not in imported(path), path


def test_component_bodies_are_thin():
    for path in (ROOT / "components").glob("*/component.py"):
        for function in [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]:
            body = function.body[1:]
            assert body[-1].end_lineno - body[0].lineno + 1 <= 15, (path, function.name)


def test_no_module_is_a_drawer_for_anything():
    names = {path.stem for package in ("model", "components", "pipelines") for path in (ROOT / package).rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc"}


def test_the_command_line_starts_without_anything_heavy():
    code = f"import sys, pipelines.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
