"""OpenStack Swift's S3 API on loopback: it checks signatures, which moto does not. `.ci/swift.sh` installs it."""

import subprocess
from pathlib import Path

import pytest

PYTHON = "/usr/bin/python3"  # Debian's, which sees Debian's packages
SERVER = Path(__file__).with_name("swift_server.py")


@pytest.fixture(scope="session")
def swift(tmp_path_factory):
    """The address of the server; its user is atlas:reader, the secret swordfish."""
    if subprocess.run([PYTHON, "-c", "import swift"], capture_output=True).returncode:
        pytest.skip("needs Debian's python3-swift; .ci/swift.sh installs it")
    folder = tmp_path_factory.mktemp("swift")
    with (folder / "server.log").open("w") as log:
        command = [PYTHON, str(SERVER), str(folder)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    address = server.stdout.readline().strip()
    assert address, (folder / "server.log").read_text()
    yield address
    server.communicate(timeout=120)


@pytest.fixture
def environment(swift, no_aws):
    """The AWS environment of that user."""
    no_aws.setenv("AWS_ENDPOINT_URL_S3", swift)
    no_aws.setenv("AWS_ACCESS_KEY_ID", "atlas:reader")
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", "swordfish")
    return no_aws
