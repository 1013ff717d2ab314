"""The whole pipeline on this machine: every step, its outputs, its cache, its failures, its interruption."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.mlflow_servers import listening
from tests.processes import at_work

FUSION = str(Path(sys.executable).parent / "fusion")
SMALL = [
    "--phantom-subjects",
    "3",
    "--phantom-slices",
    "2",
    "--min-pairs",
    "4",
    "--epochs",
    "1",
    "--crop",
    "32",
    "--batch",
    "2",
]
SMALL += ["--strategies", "sfnn,average"]


def fusion(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FUSION, *arguments], cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environment
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which the pipeline ran once, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    done = fusion("run", *SMALL, cwd=folder, MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_summary_shows_table_gate_and_places(ran):
    folder, said = ran
    for step in ("ingest", "validate", "preprocess", "train", "champion", "evaluate", "register", "notify"):
        assert re.search(rf"^{step} +done in \d+\.\d s$", said, re.MULTILINE), step
    for words in ("This network, SFNN", "Elementwise maximum", "Q^AB/F", "gate ", "ct-mri-fusion-quick version 1"):
        assert words in said
    latest = folder / "runs" / "latest"
    for name in ("report.html", "data-docs.html", "table.json", "table.csv", "registration.json", "run.log"):
        assert (latest / name).stat().st_size > 0
        if name.endswith("html"):
            assert str(latest.resolve().relative_to(folder.resolve()) / name) in said


def test_the_held_out_subjects_are_in_no_other_split(ran):
    folder, _ = ran
    (index,) = (folder / "runs" / "store").glob("*/preprocess/packed/index.json")
    splits = json.loads(index.read_text())["splits"]
    subjects = {split: {entry["subject"] for entry in entries} for split, entries in splits.items()}
    assert sum(map(len, subjects.values())) == len(set().union(*subjects.values())) == 3
    table = json.loads((folder / "runs" / "latest" / "table.json").read_text())
    assert set(table["subjects"]) == subjects["test"]


def test_the_registered_version_is_traced_to_its_run_and_to_every_pair(ran):
    folder, _ = ran
    done = fusion("models", "lineage", "1", "--json", cwd=folder, MLFLOW_TRACKING_URI="")
    facts = json.loads(done.stdout)
    assert facts["pipeline_run"] == (folder / "runs" / "latest").resolve().name
    (index,) = (folder / "runs" / "store").glob("*/preprocess/packed/index.json")
    splits = json.loads(index.read_text())["splits"]
    assert facts["data"]["pairs"] == {split: len(entries) for split, entries in splits.items()}
    assert facts["data"]["unknown"] == "" and facts["data"]["source"] == "phantom"
    image = next((folder / "runs" / "store").glob("*/ingest/dataset/CT-MRI/MRI/*.png"))
    done = fusion("models", "lineage", "--image", str(image), "--json", cwd=folder, MLFLOW_TRACKING_URI="")
    (saw,) = json.loads(done.stdout)["saw"]
    assert [image.stem] in saw["pairs"].values()


@pytest.mark.integration
def test_a_second_run_takes_unchanged_steps_from_the_cache_and_registers_nothing_new(ran):
    folder, _ = ran
    done = fusion("run", *SMALL, cwd=folder, MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stdout + done.stderr
    for step in ("ingest", "validate", "preprocess", "train", "evaluate"):
        assert re.search(rf"^{step} +unchanged, from the cache$", done.stdout, re.MULTILINE), step
    assert "registered before" in done.stdout
    assert "version 1" in done.stdout


@pytest.mark.integration
def test_a_scheduled_run_trains_only_when_something_is_new_and_tells_of_its_end(ran):
    folder, _ = ran
    with listening() as (address, posts):
        told = {"MLFLOW_TRACKING_URI": "", "ATLAS_FUSION_WEBHOOK": f"{address}/s3cret"}
        done = fusion("run", *SMALL, "--scheduled", cwd=folder, **told)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"^change +done", done.stdout, re.MULTILINE) and "ingest" not in done.stdout
        assert "nothing new, no training: version 1 was made of this data, code and settings" in done.stdout
    (said,) = posts
    assert said["event"] == "nothing_new" and said["run"] in {path.name for path in (folder / "runs").iterdir()}
    (latest,) = {path.resolve() for path in (folder / "runs").glob("latest")}
    assert (latest / "report.html").is_file(), "a run without a training leaves the last reports as they are"
    assert not any("s3cret" in log.read_text() for log in (folder / "runs").glob("*/run.log"))
    assert fusion("run", "--force", cwd=folder).stderr.startswith("error: --force is for a run that thinks first")


@pytest.mark.integration
def test_a_changed_parameter_runs_what_depends_on_it_and_no_more(ran):
    folder, _ = ran
    done = fusion("run", *SMALL, "--split-seed", "1", "--crop", "512", cwd=folder, MLFLOW_TRACKING_URI="")
    assert done.returncode == 2
    assert re.search(r"^ingest +unchanged", done.stdout, re.MULTILINE)
    assert re.search(r"^preprocess +done", done.stdout, re.MULTILINE)
    assert done.stderr == "error: train: crop is 512, the images are 256x256; give a smaller crop\n"


@pytest.mark.integration
def test_the_registered_model_fuses_by_uri_as_from_the_run(ran, tmp_path):
    folder, _ = ran
    pair = sorted((folder / "runs" / "store").glob("*/ingest/dataset/CT-MRI/*/101001.png"))
    assert len(pair) == 2
    ct, mr = map(str, pair)
    for number, model in enumerate(
        (["--model", "models:/ct-mri-fusion-quick@champion"], ["--model", "runs/latest/model"])
    ):
        done = fusion("fuse", ct, mr, "-o", str(tmp_path / f"{number}.png"), *model, cwd=folder, MLFLOW_TRACKING_URI="")
        if "models:" in str(model) and done.returncode == 2:
            # The tiny network need not have won; then the registry names the alias that there is.
            assert "challenger" in done.stderr
            model = ["--model", "models:/ct-mri-fusion-quick@challenger"]
            done = fusion(
                "fuse", ct, mr, "-o", str(tmp_path / f"{number}.png"), *model, cwd=folder, MLFLOW_TRACKING_URI=""
            )
        assert done.returncode == 0, done.stderr
    images = [(tmp_path / f"{number}.png").read_bytes() for number in range(2)]
    assert images[0] == images[1]
    assert Image.open(tmp_path / "0.png").size == (256, 256)


def test_a_version_that_does_not_exist_is_told_with_those_that_do(ran, tmp_path):
    folder, _ = ran
    pair = [str(path) for path in sorted((folder / "runs" / "store").glob("*/ingest/dataset/CT-MRI/*/101001.png"))]
    uri = "models:/ct-mri-fusion-quick/9"
    done = fusion("fuse", *pair, "-o", str(tmp_path / "o.png"), "--model", uri, cwd=folder, MLFLOW_TRACKING_URI="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no version 9") and done.stderr.count("\n") == 1
    assert "it has 1" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_a_dataset_that_fails_validation_stops_the_run_and_keeps_its_data_docs(ran, tmp_path):
    folder, _ = ran
    (source,) = (folder / "runs" / "store").glob("*/ingest/dataset")
    data = tmp_path / "data" / "CT-MRI"
    for modality in ("CT", "MRI"):
        shutil.copytree(source / "CT-MRI" / modality, data / modality)
    (data / "MRI" / "102001.png").unlink()
    (data / "CT" / "103001.png").write_bytes((data / "CT" / "103001.png").read_bytes()[:2000])
    # The second run has the validation from the cache; it must stop as the first did.
    for _attempt in range(2):
        with listening() as (address, posts):
            told = {"MLFLOW_TRACKING_URI": "", "ATLAS_FUSION_WEBHOOK": address}
            done = fusion("run", *SMALL, "--data", str(tmp_path / "data"), cwd=tmp_path, **told)
        assert [said["event"] for said in posts] == ["run_failed"]
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.count("\n") == 1
        assert "CT-MRI/CT/102001.png" in done.stderr
        assert "CT-MRI/CT/103001.png" in done.stderr
        docs = Path(re.search(r"; Data Docs: (\S+)", done.stderr)[1])
        assert "102001.png" in (tmp_path / docs).read_text()
    assert not (tmp_path / "runs" / "latest").exists()


@pytest.mark.integration
def test_ui_serves_the_local_store_until_it_is_interrupted(ran):
    folder, _ = ran
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [FUSION, "ui", "--port", str(port)], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        retrying = requests.Session()
        retrying.mount("http://", HTTPAdapter(max_retries=Retry(total=9, backoff_factor=0.5)))
        search = f"http://127.0.0.1:{port}/api/2.0/mlflow/registered-models/search"
        found = retrying.get(search, timeout=30).json()
        taken = fusion("ui", "--port", str(port), cwd=folder)
        family = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(signal.SIGINT)
        server.wait(300)
    assert [model["name"] for model in found["registered_models"]] == ["ct-mri-fusion-quick"]
    assert (taken.returncode, taken.stderr) == (2, f"error: port {port} is taken; choose another with --port\n")
    assert not psutil.wait_procs(family, timeout=300)[1]


@pytest.mark.integration
def test_an_interrupt_ends_every_process_and_the_next_run_works(ran):
    folder, _ = ran
    logs = set((folder / "runs").glob("*/run.log"))
    command = [FUSION, "run", *SMALL, "--epochs", "500"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": ""}
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("preprocess"):
                break
        (log,) = set((folder / "runs").glob("20*/run.log")) - logs
        while "progress train" not in log.read_text():
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 5, "the runner, its step, torchrun and two workers"
        # A second, impatient one must not leave anything behind.
        for sign in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(sign)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert said == "interrupted\n"
    assert not at_work(family)
    # Where the training stood is kept for a run with the same settings, and in the way of no other.
    assert list((folder / "runs" / "workspace").glob("*/step-*.safetensors"))
    done = fusion("run", *SMALL, cwd=folder, MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.integration
def test_awkward_folder_names_and_a_strategy_of_choice(ran, tmp_path):
    # KFP puts the interpreter in place of every "python3"; a module of the current folder could stand in for ours.
    folder = tmp_path / "it's a python3 [bold] folder"
    folder.mkdir()
    (folder / "model.py").write_text("raise SystemExit('the wrong model')")
    (source,) = (ran[0] / "runs" / "store").glob("*/ingest/dataset")
    for modality in ("CT", "MRI"):
        shutil.copytree(source / "CT-MRI" / modality, tmp_path / "images" / modality)
    (folder / "data").mkdir()
    (folder / "data" / "CT-MRI").symlink_to(tmp_path / "images")
    arguments = [*SMALL[:-1], "fer,sfnn", "--data", "data"]
    done = fusion("run", *arguments, cwd=folder, MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in folder.iterdir() if path.name not in ("data", "model.py")] == ["runs"]
    (latest,) = {path.resolve() for path in (folder / "runs").glob("latest")}
    assert str(latest.relative_to(folder.resolve()) / "report.html") in done.stdout
    # The model that is left fuses by the strategy that was judged.
    assert json.loads((latest / "model" / "config.json").read_text())["strategy"] == "fer"
    assert json.loads((latest / "table.json").read_text())["candidate"] == "network-fer"
