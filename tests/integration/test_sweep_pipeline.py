"""The search pipeline under KFP's local runner, whole, on the phantom: what it leaves, not only that it ends."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.sweep.score import score
from components.tracking import connected
from model.fuser import Fuser, weights_sha256

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json, sys
from pathlib import Path
from pipelines.local import run_pipeline
from pipelines.sweep import sweep_pipeline
print("outputs " + json.dumps(run_pipeline(sweep_pipeline, json.loads(sys.argv[1]), Path(sys.argv[2]))))
"""
SMALL = {"phantom_subjects": 3, "phantom_slices": 2, "min_pairs": 4, "epochs": 1, "crop": 32, "batch": 2}
SMALL |= {"processes": 1, "strategies": "default,average", "perceptual_weight": 0.0, "measure": "ssim"}


def test_the_best_of_all_trials_is_judged_and_registered(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    parameters = SMALL | {"search": "width=8,16 learning_rate=1e-3"}
    arguments = [json.dumps(parameters), str(tmp_path / "runs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    outputs = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("outputs "))[8:])
    told = json.loads((Path(outputs["trials"]) / "sweep.json").read_text())
    assert [trial["choices"] for trial in told["trials"]] == [{"width": 8}, {"width": 16}]
    assert {trial["status"] for trial in told["trials"]} == {"finished"}
    (packed,) = (tmp_path / "runs" / "store").glob("*/preprocess/packed")
    for trial in told["trials"]:
        assert trial["value"] == pytest.approx(score(Path(trial["model"]), packed, "ssim"), abs=1e-6)
    best = max(told["trials"], key=lambda trial: trial["value"])
    assert told["best"] == best["number"]
    assert weights_sha256(Path(outputs["model"])) == weights_sha256(Path(best["model"]))
    assert Fuser.load(Path(outputs["model"])).network.width == best["choices"]["width"]
    rows = list(csv.DictReader((Path(outputs["trials"]) / "trials.csv").open()))
    assert [row["width"] for row in rows] == ["8", "16"]
    table = json.loads((Path(outputs["evaluation"]) / "table.json").read_text())
    assert table["candidate"] == "network-local-saliency"
    registration = json.loads(Path(outputs["registration"]).read_text())
    assert registration["version"] == "1" and registration["run_id"] == best["run_id"]
    with connected(uri) as client:
        experiment = client.get_experiment_by_name("atlas-fusion")
        runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    (parent,) = [run for run in runs.values() if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 3 and parent.data.tags["best_run_id"] == best["run_id"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs.values()} == {None, parent.info.run_id}
