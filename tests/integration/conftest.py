"""Real servers on loopback, which `.ci/servers.sh` installs: OpenStack Swift, whose S3 API checks signatures, which
moto does not, and MLflow on PostgreSQL with its files there.
"""

import os
import subprocess
from pathlib import Path

import boto3
import pytest
from mlflow_server import ADMINISTRATOR, PASSWORD, Database, Server, postgresql

PYTHON = "/usr/bin/python3"  # Debian's, which sees Debian's packages
SERVER = Path(__file__).resolve().parents[2] / "infra" / "compose" / "swift_server.py"


@pytest.fixture(scope="session")
def swift(tmp_path_factory):
    """The address of the server; its user is atlas:reader, the secret swordfish."""
    if subprocess.run([PYTHON, "-c", "import swift"], capture_output=True).returncode:
        pytest.skip("needs Debian's python3-swift; .ci/servers.sh installs it")
    folder = tmp_path_factory.mktemp("swift")
    with (folder / "server.log").open("w") as log:
        command = [PYTHON, str(SERVER), str(folder)]
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"SWIFT_ACCESS_KEY": "atlas:reader", "SWIFT_SECRET_KEY": "swordfish"},
        )
    address = server.stdout.readline().strip()
    assert address, (folder / "server.log").read_text()
    yield address
    server.communicate(timeout=120)


STORAGE = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "atlas:reader",
    "AWS_SECRET_ACCESS_KEY": "swordfish",
}


@pytest.fixture
def environment(swift, no_aws):
    """The AWS environment of that user."""
    for name, value in STORAGE.items():
        no_aws.setenv(name, value)
    no_aws.setenv("AWS_ENDPOINT_URL_S3", swift)
    return no_aws


@pytest.fixture(scope="session")
def bucket(swift):
    """A bucket there, as boto3's resource."""
    keys = {name.lower(): STORAGE[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    session = boto3.session.Session(region_name="us-east-1", **keys)
    return session.resource("s3", endpoint_url=swift).create_bucket(Bucket="mlflow")


@pytest.fixture(scope="session")
def mlflow_server(swift, bucket, tmp_path_factory):
    """MLflow on PostgreSQL, with users and passwords, its files in that bucket."""
    if not postgresql():
        pytest.skip("needs Debian's postgresql; .ci/servers.sh installs it")
    folder = tmp_path_factory.mktemp("mlflow")
    nobody = {name: str(folder / "none") for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    storage = STORAGE | nobody | {"AWS_ENDPOINT_URL_S3": swift, "MLFLOW_S3_ENDPOINT_URL": swift}
    database = Database()
    try:
        server = Server(folder, database, f"s3://{bucket.name}/files", storage)
        yield server
        server.close()
    finally:
        database.close()


@pytest.fixture
def keeper(mlflow_server, monkeypatch):
    """The environment of its administrator, who reaches the files through the server alone."""
    for name in (*STORAGE, "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMINISTRATOR)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    return monkeypatch
