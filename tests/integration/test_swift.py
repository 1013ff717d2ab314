"""What DVC pushed to a real S3 server is fetched without DVC, and what is wrong there is refused by name."""

import os
import shutil
import subprocess
import sys
import uuid

import boto3
import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.ingest import publish
from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from components.ingest.remote import Remote, fetch_version, parse_remote
from components.ingest.version import data_files, file_md5, folder_version
from model.errors import InputError

pytestmark = pytest.mark.integration

PAIRS = 10


def dvc(folder, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    result = subprocess.run(
        command, cwd=folder, env=os.environ | {"DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture
def data(tmp_path):
    """A data folder of a few pairs."""
    generator = np.random.default_rng(0)
    for modality in ("CT", "MRI"):
        images = tmp_path / "project" / "data" / "CT-MRI" / modality
        images.mkdir(parents=True)
        for number in range(PAIRS):
            Image.fromarray(generator.integers(0, 256, (64, 64), np.uint8)).save(images / f"{number}001.png")
    return tmp_path / "project" / "data"


@pytest.fixture
def remote(environment):
    """A remote in a bucket of its own, with nothing in it."""
    bucket = f"atlas-{uuid.uuid4().hex}"
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)
    return Remote(bucket, "team/dvc")


@pytest.fixture
def version(remote, data):
    """The data's version, on the remote."""
    files = [(path.relative_to(data).as_posix(), path) for path in data_files(data)]
    return publish(boto3.session.Session().client("s3"), remote, files)


def test_what_dvc_pushed_is_fetched_and_ingested_and_dvc_pulls_the_same(remote, data, tmp_path):
    project = data.parent
    dvc(project, "init", "--no-scm", "--quiet")
    dvc(project, "config", "core.analytics", "false")
    dvc(project, "remote", "add", "--default", "swift", str(remote))
    dvc(project, "add", "--quiet", "data")
    dvc(project, "push", "--quiet")
    version = yaml.safe_load((project / "data.dvc").read_text())["outs"][0]["md5"]
    fetch_version(remote, version, tmp_path / "target")
    assert folder_version(tmp_path / "target") == folder_version(data) == version
    facts = ingest(str(remote), version, PhantomConfig(), tmp_path / "dataset")
    assert (facts["version"], facts["pairs"]) == (version, PAIRS)
    shutil.rmtree(data)
    shutil.rmtree(project / ".dvc" / "cache")
    dvc(project, "pull", "--quiet")
    assert folder_version(data) == version


def test_a_wrong_secret_is_one_clear_line(remote, version, environment, tmp_path):
    environment.setenv("AWS_SECRET_ACCESS_KEY", "cod-and-chips")
    with pytest.raises(InputError, match=r"does not accept the AWS credentials \(SignatureDoesNotMatch\)") as told:
        fetch_version(remote, version, tmp_path / "target")
    assert "\n" not in str(told.value)
    assert not {"cod-and-chips", "atlas:reader"} & set(str(told.value).split())
    assert not (tmp_path / "target").exists()
    environment.setenv("AWS_ACCESS_KEY_ID", "atlas:nobody")
    with pytest.raises(InputError, match="the AWS credentials"):
        fetch_version(remote, version, tmp_path / "target")


def test_a_corrupted_object_is_refused_by_name_and_a_run_after_its_repair_goes_on(remote, data, version, tmp_path):
    client = boto3.session.Session().client("s3")
    image = data / "CT-MRI/MRI/7001.png"
    md5 = file_md5(image)
    spoiled = bytearray(image.read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    client.put_object(Bucket=remote.bucket, Key=remote.key(md5), Body=bytes(spoiled))
    with pytest.raises(InputError, match=rf"CT-MRI/MRI/7001\.png \(md5 {md5}\) is corrupted in {remote}"):
        fetch_version(remote, version, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    client.put_object(Bucket=remote.bucket, Key=remote.key(md5), Body=image.read_bytes())
    fetch_version(remote, version, tmp_path / "target")
    assert folder_version(tmp_path / "target") == version


def test_a_missing_object_or_bucket_is_named(remote, data, version, tmp_path):
    md5 = file_md5(data / "CT-MRI/CT/3001.png")
    boto3.session.Session().client("s3").delete_object(Bucket=remote.bucket, Key=remote.key(md5))
    with pytest.raises(InputError, match=rf"CT-MRI/CT/3001\.png \(md5 {md5}\) is missing in the remote"):
        fetch_version(remote, version, tmp_path / "target")
    with pytest.raises(InputError, match="no bucket 'nowhere-at-all'"):
        fetch_version(parse_remote("s3://nowhere-at-all/dvc"), version, tmp_path / "target")


def test_a_half_fetched_object_is_continued_by_a_range(remote, data, version, environment, tmp_path):
    image = data / "CT-MRI/CT/0001.png"
    content = image.read_bytes()
    part = tmp_path / f".target.{version}.partial" / file_md5(image)
    part.parent.mkdir()
    part.write_bytes(content[: len(content) // 2])
    told = []
    fetch_version(remote, version, tmp_path / "target", progress=lambda *line: told.append(line))
    assert folder_version(tmp_path / "target") == version
    whole = sum(path.stat().st_size for path in data.rglob("*.png"))
    assert told[-1] == (2 * PAIRS, 2 * PAIRS, f"{(whole - len(content) // 2) / 1e6:.1f} MB fetched")


def test_the_program_runs_from_the_command_line_against_it(remote, version, environment, tmp_path):
    environment.setenv("AWS_SECRET_ACCESS_KEY", "cod-and-chips")
    command = [sys.executable, "-m", "pipelines.cli", "run", "--data", str(remote), "--data-version", version]
    result = subprocess.run(
        [*command, "--runs", str(tmp_path / "runs")], capture_output=True, text=True, env=os.environ
    )
    assert result.returncode == 2
    assert "ingest: " in result.stderr and "does not accept the AWS credentials" in result.stderr
    assert "cod-and-chips" not in result.stderr + (next((tmp_path / "runs").glob("*/run.log"))).read_text()
