"""A real S3 server (moto) on a free port of this machine, as the environment's AWS settings name it."""

import logging
import uuid

import boto3
import pytest
from moto.server import ThreadedMotoServer

from components.ingest.remote import Remote


@pytest.fixture(scope="session")
def s3_server():
    """The address of the server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def aws(s3_server, monkeypatch, tmp_path):
    """The environment of a user of that server, free of the machine's own AWS settings."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    return monkeypatch


@pytest.fixture(scope="session")
def client(s3_server):
    keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "hush-hush"}
    return boto3.session.Session(region_name="us-east-1", **keys).client("s3", endpoint_url=s3_server)


@pytest.fixture
def remote(client, aws):
    """A DVC remote below a prefix of a bucket of its own."""
    bucket = f"atlas-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    return Remote(bucket, "team/dvc")
