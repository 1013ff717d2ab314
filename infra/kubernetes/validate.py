"""Build every overlay and check it: schemas of Kubernetes and of custom resources, our policies, the alerts' syntax.

python infra/kubernetes/validate.py      (`make validate-infra`; needs kubectl and, for the alerts, promtool)
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import yaml
from policies import POLICIES, alerts
from workloads import Manifest, name_of, unfolded

HERE = Path(__file__).resolve().parent
OVERLAYS = sorted(path.parent for path in (HERE / "overlays").glob("*/kustomization.yaml"))
ALONE = [HERE.parent / "training", HERE.parent / "serving"]
"""What may also be applied by itself, into a namespace named on the command line."""
KUBERNETES = "1.34"
"""Whose schemas are asked; what they know, later versions take too."""
CUSTOM = ("monitoring.coreos.com/", "serving.kserve.io/", "trainer.kubeflow.org/")


class ToolError(Exception):
    """A program or package that is needed is missing, or kustomize refuses."""


def build(folder: Path) -> list[Manifest]:
    """The objects that `kubectl kustomize` makes of a folder; ToolError with its words if it makes none."""
    if not shutil.which("kubectl"):
        raise ToolError("no kubectl: .ci/tools.sh installs one, or take that of your cluster (1.27 or later)")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise ToolError(f"{folder}: {done.stderr.strip()}")
    if "Warning" in done.stderr:
        raise ToolError(f"{folder}: {done.stderr.strip()}")
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def known(thing: Manifest) -> Iterator[str]:
    """What the schema of its kind refuses of an object; an unknown kind is refused."""
    if not thing["apiVersion"].startswith(CUSTOM):
        yield from _built_in(thing)
        return
    file = HERE / "schemas" / f"{thing['kind'].lower()}.schema.json"
    if not file.exists():
        yield f"{name_of(thing)}: no schema of {thing['apiVersion']} {thing['kind']}; add it to {file.parent}"
        return
    validator = jsonschema.Draft202012Validator(json.loads(file.read_text()))
    for error in validator.iter_errors(thing):
        yield f"{name_of(thing)}: {'.'.join(map(str, error.absolute_path))}: {error.message}"


def _built_in(thing: Manifest) -> Iterator[str]:
    try:
        import kubernetes_validate
    except ImportError:
        raise ToolError("no kubernetes-validate: `make setup` installs it") from None
    try:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{name_of(thing)}: {'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{name_of(thing)}: Kubernetes {KUBERNETES} has no {thing['apiVersion']} {thing['kind']}"


def parsed(things: list[Manifest]) -> Iterator[str]:
    """What promtool says of the alerts' expressions and templates."""
    groups = [group for thing in things if thing["kind"] == "PrometheusRule" for group in thing["spec"]["groups"]]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": groups}, file)
        file.flush()
        done = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
    if done.returncode:
        yield from (f"promtool: {line.strip()}" for line in done.stderr.splitlines() if line.strip())


def complaints(things: list[Manifest], policies: tuple = POLICIES) -> list[str]:
    """All that is wrong with the objects of an overlay, those in Lists included."""
    things = unfolded(things)
    found = [line for thing in things for line in known(thing)]
    found += [line for policy in policies for line in policy(things)]
    return found + (list(parsed(things)) if shutil.which("promtool") and alerts(things) else [])


def main() -> int:
    """Exit code: 0, 1 with every complaint, 2 if something needed is missing."""
    wrong = 0
    try:
        for folder in [*OVERLAYS, *ALONE]:
            things = build(folder)
            found = complaints(things, POLICIES if folder in OVERLAYS else ())
            wrong += len(found)
            print(f"{folder.relative_to(HERE.parent.parent)}: {len(things)} objects, {len(found) or 'no'} complaints")
            print("".join(f"  {line}\n" for line in found), end="")
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not shutil.which("promtool"):
        print("skipped: the syntax of the alerts; it needs Debian's promtool (.ci/tools.sh installs it)")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
