"""Checkpoints on a real S3 server that checks signatures and MD5s: kept, found, dropped and refused."""

import uuid

import boto3
import pytest
import torch

from components.train.bucket import checkpoints
from model.checkpoint_format import Checkpoint

pytestmark = pytest.mark.integration


@pytest.fixture
def client(swift, environment):
    return boto3.session.Session(region_name="us-east-1").client("s3", endpoint_url=swift)


def test_checkpoints_are_kept_found_dropped_and_refused(environment, client, tmp_path):
    name, lines = f"checkpoints-{uuid.uuid4().hex}", []
    client.create_bucket(Bucket=name)
    here, elsewhere = (
        checkpoints(f"s3://{name}/team/run", {"network": "dilran"}, tmp_path / machine, report=lines.append)
        for machine in ("here", "elsewhere")
    )
    assert elsewhere.latest() is None
    for step in (1, 2, 3):
        here.save(Checkpoint(step, {"weights": torch.full((300_000,), float(step))}, {"position": step}))
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=name)["Contents"]]
    assert keys == ["team/run/step-00000002.safetensors", "team/run/step-00000003.safetensors"]
    found = elsewhere.latest()
    assert found.facts == {"position": 3} and torch.equal(found.tensors["weights"], torch.full((300_000,), 3.0))
    assert not lines
    client.put_object(Bucket=name, Key=keys[1], Body=b"spoiled")
    assert elsewhere.latest().step == 2
    (line,) = lines
    assert f"s3://{name}/{keys[1]} is refused" in line


def test_a_wrong_secret_is_told_without_ending_the_training(environment, client, tmp_path):
    name, lines = f"checkpoints-{uuid.uuid4().hex}", []
    client.create_bucket(Bucket=name)
    environment.setenv("AWS_SECRET_ACCESS_KEY", "herring")
    here = checkpoints(f"s3://{name}/run", {}, tmp_path / "here", report=lines.append)
    here.save(Checkpoint(1, {}, {}))
    (line,) = lines
    assert "is only on this machine" in line and "SignatureDoesNotMatch" in line and "herring" not in line
