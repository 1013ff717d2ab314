"""`fusion batch`: what it prints and leaves, its one-line refusals; the same pipeline under KFP's local runner."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import boto3
import pytest
from PIL import Image

from tests.datasets import write_tree

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json, sys
from pathlib import Path
from pipelines.batch_fusion import batch_pipeline
from pipelines.local import run_pipeline
print("outputs " + json.dumps(run_pipeline(batch_pipeline, json.loads(sys.argv[1]), Path(sys.argv[2]))))
"""


@pytest.fixture
def images(tmp_path):
    return write_tree(tmp_path / "images")


@pytest.fixture
def ward(aws):
    """The address of a bucket of its own."""
    name = f"ward-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def test_it_says_what_was_done_by_which_model_and_where_the_results_are(tmp_path, images, fusion):
    (images / "CT-MRI" / "CT" / "2004.png").write_bytes(b"")
    done = fusion("batch", images, "out", "--measures", "en,qabf")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["fused"] == "2 CT-MRI pairs"
    assert lines["model"].startswith("the shipped model, weights ")
    assert lines["skipped"] == "2004: CT-MRI/CT/2004.png is not an image this program reads; give a PNG or TIFF file"
    assert lines["results"] == "out/CT-MRI"
    assert {path.name for path in (tmp_path / "out" / "CT-MRI").iterdir()} == {
        *("fused", "progress", "batch.json", "drift.json"),
        *("manifest.json", "measures.csv", "measures.json", "report.html"),
    }
    again = fusion("batch", images, "out", "--measures", "en,qabf")
    assert "2 CT-MRI pairs, 2 of them by an earlier run" in again.stdout
    page = (tmp_path / "out" / "CT-MRI" / "report.html").read_text()
    assert "Of the fused pairs, an earlier run had done 2." in page  # and not of those that could not be fused


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, images, folder, refused, ward, aws):
    (tmp_path / "file").touch()
    (tmp_path / "bare").mkdir()
    cases = {
        ("absent", "out"): "no such folder: absent",
        ("bare", "out"): "there are no files in bare",
        ("file", "out"): "file is a file; give a folder or s3://bucket/prefix",
        (images, "file"): "file is a file; give a folder or s3://bucket/prefix",
        (images, "out", "--collection", "SPECT-MRI"): "holds no SPECT images",
        (images, "out", "--model", ""): "the model's name is empty",
        (images, "out", "--strategy", "best"): "unknown fusion strategy 'best'; choose one of",
        (images, "out", "--measures", "beauty"): "unknown measure 'beauty'; choose one of default, none, psnr",
        (images, "out", "--on-error", "ask"): "unknown --on-error 'ask'; choose one of skip, stop",
        (images, "out", "--model", "absent"): "absent holds no model: config.json is missing",
        (images, "out", "--model", "models:/fusion@champion"): "no local MLflow store in runs; set MLFLOW_TRACKING_URI",
        (images, "out", "--device", "abacus"): "device 'abacus' cannot be used here; choose cpu",
        (images, "ftp://user:hush@host/out"): "'ftp://***@host/out' is no place for images",
        (f"{ward}/none", "out"): f"there are no files in {ward}/none",
        (images, "s3://no-such-bucket/out"): "no bucket 'no-such-bucket' at http://127.0.0.1",
    }
    for arguments, words in cases.items():
        said = refused("batch", *arguments)
        assert words in said, said
        assert "hush" not in said
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws.delenv(name)
    assert "no usable AWS credentials" in refused("batch", ward, "out")
    assert not (tmp_path / "out").exists()


def test_a_pair_that_stops_the_batch_is_told_with_the_option_that_skips_it(images, refused):
    (images / "CT-MRI" / "CT" / "2004.png").write_bytes(b"")
    said = refused("batch", images, "out", "--on-error", "stop")
    assert "pair 2004: " in said and said.rstrip().endswith("mend it, or run with --on-error skip")
    (images / "CT-MRI" / "CT" / "2004.png").unlink()
    said = refused("batch", images, "out", "--on-error", "stop")
    assert said.rstrip().endswith("mend it, or run with --on-error skip")


def test_results_of_another_model_are_refused(tmp_path, images, folder, fusion, refused):
    assert fusion("batch", images, "out", "--measures", "none").returncode == 0
    said = refused("batch", images, "out", "--measures", "none", "--model", folder / "model")
    assert "out holds CT-MRI results by another model" in said


def run_under_kfp(folder: Path, **parameters: object) -> dict[str, Path]:
    arguments = [json.dumps(parameters), str(folder / "runs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("outputs "))
    return {name: Path(path) for name, path in json.loads(line.removeprefix("outputs ")).items()}


@pytest.mark.integration
def test_the_pipeline_runs_with_nothing_given_on_the_phantom_and_the_shipped_model(tmp_path):
    made = run_under_kfp(tmp_path)
    manifest = json.loads((made["summary"] / "manifest.json").read_text())
    assert manifest["source"] == "phantom" and manifest["model"]["name"] == "the shipped model"
    fused = sorted((made["fused"] / "results" / "CT-MRI" / "fused").iterdir())
    assert len(fused) == manifest["pairs"]["fused"] == 12
    assert Image.open(fused[0]).size == (256, 256)
    assert made["page"].read_text() == (made["summary"] / "report.html").read_text()


@pytest.mark.integration
def test_the_pipeline_from_s3_to_s3_is_what_the_command_makes(tmp_path, images, fusion, ward):
    client, bucket = boto3.client("s3"), ward.removeprefix("s3://")
    for path in images.rglob("*.png"):
        client.upload_file(str(path), bucket, f"in/{path.relative_to(images).as_posix()}")
    settings = {"source": f"{ward}/in", "destination": f"{ward}/out", "collection": "PET-MRI", "measures": "en"}
    run_under_kfp(tmp_path, **settings, on_error="stop")
    assert fusion("batch", images, "out", "--collection", "PET-MRI", "--measures", "en").returncode == 0
    for path in (tmp_path / "out" / "PET-MRI").rglob("*"):
        if path.suffix in (".png", ".csv"):
            key = f"out/{path.relative_to(tmp_path / 'out').as_posix()}"
            assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == path.read_bytes()
    again = run_under_kfp(tmp_path, **settings)
    assert json.loads((again["summary"] / "manifest.json").read_text())["pairs"] == {
        "fused": 2,
        "kept": 2,
        "skipped": 0,
    }
