"""Registering a model whose training logged live: curves, images, measures and the version hang on one run."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.tracking import RUN_FILE, connected
from components.train.live import LiveRun
from components.train.sender import Control, send
from tests.registered import Folders, make_folders, register


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A local MLflow on sqlite."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('takeover')}/mlflow.db"
    with connected(uri) as client:
        yield SimpleNamespace(uri=uri, client=client)


def trained_live(root: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Folders, str]:
    """A judged model whose training logged the first of its two epochs, and a picture; and its run."""
    folders = make_folders(root / "in")
    with LiveRun("", "fusion", "by-training", root / "checkpoints", parameters={"epochs": "2", "lr": "0.1"}) as live:
        live.metrics({"loss/train/total": 0.9, "loss/train/l2": 0.8}, 1)
        live.metrics({f"loss/train/{name}": 0.5 for name in ("total", "l2")}, 20)
        live.image("pair", np.zeros((32, 32), np.uint8), 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert send(root / "checkpoints", Control(60.0))
    note = (root / "checkpoints" / RUN_FILE).read_text()
    (folders.model / RUN_FILE).write_text(note)
    return folders, json.loads(note)["run_id"]


def test_the_version_belongs_to_the_run_of_the_training_and_no_point_is_there_twice(
    store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folders, run_id = trained_live(tmp_path, store.uri, monkeypatch)
    capfd.readouterr()
    made = register(folders, store.uri, "taken-over")
    assert capfd.readouterr() == ("", "")
    assert made.run_id == run_id
    run = store.client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "by-training")
    assert {"epochs": "2", "lr": "0.1", "seed": "0"}.items() <= run.data.params.items()
    assert (run.data.metrics["qabf"], run.data.tags["profile"]) == (0.5, "quick")
    assert steps(store.client, run_id, "loss/train/total") == [1, 20, 40]
    assert steps(store.client, run_id, "loss/train/gradient") == [20, 40]
    files = {file.path for file in store.client.list_artifacts(run_id)}
    assert {"images", "table.json", "report.html", "gate.json"} <= files
    assert not list(Path(store.client.get_model_version_download_uri("taken-over", "1")[7:]).rglob(RUN_FILE))

    # Another verdict on the same model must not write over the first one's files.
    table = json.loads((folders.evaluation / "table.json").read_text())
    table["methods"][0]["means"]["psnr"] = 21.0
    (folders.evaluation / "table.json").write_text(json.dumps(table))
    again = register(folders, store.uri, "taken-over")
    assert again.run_id != run_id and "has a model version already" in capfd.readouterr().out


def test_a_run_that_is_gone_or_elsewhere_gives_way_to_a_new_one(
    store: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = make_folders(tmp_path)
    elsewhere = {"run_id": "0" * 32, "experiment": "fusion", "tracking_uri": "http://elsewhere:5000"}
    (folders.model / RUN_FILE).write_text(json.dumps(elsewhere))
    made = register(folders, store.uri, "elsewhere")
    assert made.run_id != "0" * 32 and made.promoted
    assert f"has no run {'0' * 32}" in capfd.readouterr().out
    assert steps(store.client, made.run_id, "loss/train/total") == [20, 40]


def steps(client: Any, run_id: str, key: str) -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run_id, key))
