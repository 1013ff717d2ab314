"""A real S3 server (moto) on a free port of this machine, as the environment's AWS settings name it."""

import logging
import socket
import threading
import uuid
from contextlib import suppress

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


class Proxy:
    """Passes TCP connections on to a server, and cuts the first `cuts` of them after `after` bytes.

    The bytes of answers count, or with `asking` those of requests.
    """

    def __init__(self, server: str, after: int, cuts: int, asking: bool = False):
        host, port = server.removeprefix("http://").split(":")
        self.server, self.after, self.cuts, self.asking = (host, int(port)), after, cuts, asking
        self.port, self.connections = 0, []
        self.open()
        self.address = f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Answer, at the same port each time."""
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse new connections and cut those that are there."""
        for each in (self.listener, *self.connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.server)
            self.connections += [client, server]
            asked, answered = (self.after, None) if self.asking else (None, self.after)
            threading.Thread(target=self._pass, args=(client, server, asked), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, answered), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while content := source.recv(4096):
                if left is not None and len(content) > left and self.cuts > 0:
                    self.cuts -= 1
                    sink.sendall(content[:left])
                    break
                left = None if left is None else left - len(content)
                sink.sendall(content)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(s3_server):
    """Makes proxies in front of the server."""
    made = []

    def make(after: int = 0, cuts: int = 0, asking: bool = False) -> Proxy:
        made.append(Proxy(s3_server, after, cuts, asking))
        return made[-1]

    yield make
    for each in made:
        each.close()
