"""A client and a DVC remote on the S3 server of the tests, and proxies before it; a local MLflow with a model."""

import socket
import threading
import uuid
from contextlib import suppress
from types import SimpleNamespace

import boto3
import pytest

from components.ingest.remote import Remote


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A local MLflow with one registered model, `ct-mri` version 1."""
    import mlflow

    from tests.registered import make_folders, register

    root = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{root}/mlflow.db"
    folders = make_folders(root / "first")
    made = register(folders, uri, "ct-mri")
    client = mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(uri)
    yield SimpleNamespace(root=root, uri=uri, folders=folders, made=made, client=client)
    mlflow.set_tracking_uri(None)


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
