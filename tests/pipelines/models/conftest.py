"""A real registry with models of every kind, the command `fusion models` on it, and a model with three champions."""

import json
import re
from types import SimpleNamespace

import pytest

from components.tracking import connected
from tests.versions import OTHER, SECOND, WHO, promote, registered


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Six versions of three models: one of another collection, one trained elsewhere, two of which nobody knows."""
    root = tmp_path_factory.mktemp("store")
    (root / "runs").mkdir()
    made = SimpleNamespace(root=root, runs=root / "runs", uri=f"sqlite:///{root}/runs/mlflow.db")
    registered(made, "ct-mri", 1, 0.5, WHO["1"])
    registered(made, "ct-mri", 2, 0.6, WHO["2"], SECOND, ("1", 0.5))
    registered(made, "ct-mri", 3, 0.7, WHO["3"], SECOND, ("2", 0.6), learning_rate=0.5)
    registered(made, "ct-mri", 4, 0.5, WHO["1"], champion=("3", 0.7), dataset_version="2" * 32 + ".dir")
    registered(made, "pet-mri", 5, 0.5, OTHER, collection="PET-MRI")
    with connected(made.uri) as client:
        client.create_registered_model("by-hand")
        run = client.create_run(client.get_experiment_by_name("fusion").experiment_id)
        client.create_model_version("by-hand", source="elsewhere")
        client.create_model_version("by-hand", source="elsewhere", run_id=run.info.run_id)
    return made


@pytest.fixture
def models(store, fusion, monkeypatch):
    """Run `fusion models` on that registry; with json=True its answer, read."""
    monkeypatch.setenv("FUSION_RUNS", str(store.runs))
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments, json_=False):
        done = fusion("models", *arguments, *(["--json"] if json_ else []))
        return (done.returncode, json.loads(done.stdout)) if json_ else done

    return call


@pytest.fixture
def heirs(store, request):
    """A model with four versions, of which the first three were promoted one after the other."""
    name = re.sub(r"\W", "-", request.node.name)
    with connected(store.uri) as client:
        client.create_registered_model(name)
        for number in ("1", "2", "3", "4"):
            client.create_model_version(name, source="elsewhere")
            if number != "4":
                promote(client, name, number)
        yield SimpleNamespace(name=name, client=client)
        client.delete_registered_model(name)
