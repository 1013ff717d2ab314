"""A registration that SIGKILL ends anywhere, and that is run again, leaves what an uncut one leaves."""

import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from components.register.aliases import LAST_RUN_TAG
from components.register.history import PREFIX, events
from components.tracking import connected
from tests.registered import make_folders, make_table, register

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
# Registers, and kills itself before its call number `dies` to the store; says how many there were if it lived.
OF_THE_RUN = ("promoted_at", "promotion_event", LAST_RUN_TAG)
KILLED = """
import functools, itertools, os, signal, sys
from pathlib import Path
from components.register import registry
from components.register.record import Origin
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Models
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Runs

uri, root, dies = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
calls = itertools.count(1)

def counted(method):
    @functools.wraps(method)
    def call(*arguments, **named):
        if next(calls) == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments, **named)
    return call

for store in (Models, Runs):
    for name, method in list(vars(store).items()):
        if callable(method) and name.startswith(("create", "set_", "log_", "update", "delete", "finalize", "record")):
            setattr(store, name, counted(method))
registry.register(
    root / "model", root / "evaluation", root / "packed", Origin("quick", "c0ffee", "0.1.0"),
    experiment="fusion", model_name="ct-mri", tracking_uri=uri, validation=root / "validation.json",
)
print(next(calls) - 1)
"""


def start(uri: str, root: Path, dies: int = 0) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, uri, str(root), str(dies)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def state(uri: str) -> dict:
    """What the registry holds: aliases, and each version's tags but for times, description and its run's standing."""
    with connected(uri) as client:
        model = client.get_registered_model("ct-mri")
        versions = {}
        for found in client.search_model_versions("name = 'ct-mri'"):
            run = client.get_run(found.run_id)
            tags = {key: value for key, value in found.tags.items() if key not in OF_THE_RUN}
            gate = (run.data.tags["gate"], run.data.tags["gate_reason"], run.info.status)
            versions[int(found.version)] = (tags, found.description, gate, run.data.metrics, run.data.params)
        runs = client.search_runs([client.get_experiment_by_name("fusion").experiment_id])
        aliases = {alias: int(version) for alias, version in model.aliases.items()}
        told = [asdict(event) | {"at": ""} for event in events(client, "ct-mri")]
        tags = {key: value for key, value in model.tags.items() if not key.startswith(PREFIX)}
        return {"aliases": aliases, "events": told, "tags": tags, "versions": versions, "runs": len(runs)}


def test_a_registration_killed_anywhere_and_run_again_ends_as_an_uncut_one(tmp_path):
    first = make_folders(tmp_path / "first", 1)
    second = make_folders(tmp_path / "second", 2, table=make_table(0.6, champion=("1", 0.5)))
    (tmp_path / "begun").mkdir()
    begun = tmp_path / "begun" / "mlflow.db"
    register(first, f"sqlite:///{begun}", "ct-mri")

    def copy(name: str) -> str:
        (tmp_path / name).mkdir()
        shutil.copyfile(begun, tmp_path / name / "mlflow.db")
        return f"sqlite:///{tmp_path / name}/mlflow.db"

    uncut = copy("uncut")
    lived = start(uncut, tmp_path / "second")
    said, errors = lived.communicate()
    assert lived.returncode == 0, errors
    expected, calls = state(uncut), int(said)
    assert expected["aliases"] == {"champion": 2, "previous": 1} and calls > 20
    # The first, the last, and some between; nearer one another at the end, where the aliases are set.
    points = sorted({1, calls // 3, calls // 2, *range(calls - 9, calls + 1)})
    for dies in points:
        uri = copy(f"killed-{dies}")
        killed = start(uri, tmp_path / "second", dies)
        killed.communicate()
        assert killed.returncode == -9, dies
        register(second, uri, "ct-mri")
        assert state(uri) == expected, dies
