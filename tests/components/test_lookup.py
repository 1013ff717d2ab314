"""The version behind an address, asked without MLflow: of a local store, of a server, and not where it is unusual."""

import json
import shutil
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.register import fetch, lookup
from components.register.lookup import look_up
from tests.mlflow_servers import Quiet, Server, bad_server, until
from tests.registered import make_folders, register

ROOT = Path(__file__).parents[2]
VERSION = {"name": "net", "version": "3", "aliases": ["champion"], "tags": [{"key": "weights_sha256", "value": "ab"}]}
RESOLVE = """
import sys
from pathlib import Path
from components.register.fetch import resolve_model
print(resolve_model(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
assert "mlflow" not in sys.modules, "MLflow was imported"
"""


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """An environment without settings of MLflow's."""
    for name in ("USERNAME", "PASSWORD", "TOKEN", "SERVER_CERT_PATH", "INSECURE_TLS", "CLIENT_CERT_PATH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name in lookup.ONLY_MLFLOW:
        monkeypatch.delenv(name, raising=False)


def resolve_without_mlflow(uri: str, cache: Path, server: str) -> Path:
    command = [sys.executable, "-c", RESOLVE, uri, str(cache), server]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class TestLocalStore:
    @pytest.mark.parametrize("uri", ["models:/ct-mri/1", "models:/ct-mri/01", "models:/ct-mri@champion"])
    def test_it_is_what_mlflow_s_client_says(self, store, uri):
        version = store.client.get_model_version("ct-mri", "1")
        assert look_up(uri, store.uri) == lookup.Found("ct-mri", "1", version.tags)

    @pytest.mark.parametrize("uri", ["models:/ct-mri/1", "models:/ct-mri@champion"])
    def test_what_is_in_the_cache_is_taken_without_mlflow(self, store, tmp_path, uri):
        folder = fetch.resolve_model(uri, tmp_path, store.uri)
        assert resolve_without_mlflow(uri, tmp_path, store.uri) == folder

    @pytest.mark.parametrize(
        "uri",
        ["models:/ct-mri/9", "models:/ct-mri@best", "models:/none/1", "models:/ct-mri@1", "models:/ct-mri@latest"],
    )
    def test_what_is_not_there_is_left_to_mlflow(self, store, uri):
        assert look_up(uri, store.uri) is None

    def test_a_version_that_was_deleted_is_not_found(self, store, tmp_path):
        register(make_folders(tmp_path, 3), store.uri, "deleted")
        assert look_up("models:/deleted/1", store.uri)
        store.client.delete_model_version("deleted", "1")
        assert look_up("models:/deleted/1", store.uri) is None

    def test_tables_of_another_mlflow_are_left_to_it(self, store, monkeypatch):
        monkeypatch.setattr(lookup, "SCHEMA", "of another release")
        assert look_up("models:/ct-mri/1", store.uri) is None

    def test_a_store_that_is_none_is_left_to_mlflow_and_not_made(self, tmp_path):
        (tmp_path / "broken.db").write_text("no database")
        assert look_up("models:/ct-mri/1", f"sqlite:///{tmp_path}/broken.db") is None
        assert look_up("models:/ct-mri/1", f"sqlite:///{tmp_path}/absent.db") is None
        assert not (tmp_path / "absent.db").exists()

    def test_settings_that_only_mlflow_understands_are_left_to_it(self, store, monkeypatch):
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:////elsewhere.db")
        assert look_up("models:/ct-mri/1", store.uri) is None

    def test_another_configuration_of_the_same_weights_is_not_taken_from_the_cache(self, store, tmp_path):
        folder = fetch.resolve_model("models:/ct-mri/1", tmp_path, store.uri)
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(told | {"strategy": "maximum"}))
        assert fetch.resolve_model("models:/ct-mri/1", tmp_path, store.uri) == folder
        assert json.loads((folder / "config.json").read_text()) == told


@contextmanager
def registry(answer, certificate=None):
    """A server that answers every question with `answer`, over TLS if a certificate is given; what it was asked."""
    asked = []

    class Handler(Quiet):
        def do_GET(self):  # noqa: N802
            asked.append(SimpleNamespace(path=self.path, authorization=self.headers.get("Authorization")))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}", asked
        server.shutdown()


class TestServer:
    def test_an_alias_and_a_number_are_asked_for_in_mlflow_s_words(self):
        with registry({"model_version": VERSION}) as (uri, asked):
            for address in ("models:/net@champion", "models:/net/03"):
                assert look_up(address, f"{uri}/") == lookup.Found("net", "3", {"weights_sha256": "ab"})
        assert [each.path for each in asked] == [
            "/api/2.0/mlflow/registered-models/alias?name=net&alias=champion",
            "/api/2.0/mlflow/model-versions/get?name=net&version=3",
        ]
        assert asked[0].authorization is None

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"USERNAME": "ann", "PASSWORD": "pä", "TOKEN": "t"}, "Basic YW5uOnDDpA=="),
            ({"TOKEN": "t"}, "Bearer t"),
            ({"USERNAME": "ann"}, None),
        ],
    )
    def test_who_asks_is_said_as_mlflow_says_it(self, monkeypatch, settings, expected):
        for name, value in settings.items():
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        with registry({"model_version": VERSION}) as (uri, asked):
            assert look_up("models:/net/3", uri)
        assert asked[0].authorization == expected

    @pytest.mark.parametrize(
        "answer",
        [{}, [], {"model_version": VERSION | {"aliases": []}}, {"model_version": VERSION | {"name": "other"}}],
    )
    def test_an_answer_that_is_not_mlflow_s_is_left_to_it(self, answer):
        with registry(answer) as (uri, _):
            assert look_up("models:/net@champion", uri) is None

    @pytest.mark.parametrize("status", ["401", "404", "503"])
    def test_a_refusal_is_left_to_mlflow(self, status):
        with bad_server(status) as address:
            assert look_up("models:/net/3", f"http://{address}") is None

    @pytest.mark.skipif(not shutil.which("openssl"), reason="needs the program openssl, to make a certificate")
    def test_a_certificate_is_checked_as_mlflow_is_told_to(self, monkeypatch, tmp_path, recwarn):
        certificate = tmp_path / "server.pem"
        command = (
            "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
        )
        subprocess.run(
            [*command.split(), "-keyout", certificate, "-out", tmp_path / "c"], check=True, capture_output=True
        )
        certificate.write_text(certificate.read_text() + (tmp_path / "c").read_text())
        with registry({"model_version": VERSION}, certificate) as (uri, _):
            assert look_up("models:/net/3", uri) is None
            monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
            assert look_up("models:/net/3", uri)
            monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
            assert look_up("models:/net/3", uri) is None
            monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
            assert look_up("models:/net/3", uri)
        assert not recwarn.list


@pytest.mark.integration
def test_a_real_server_s_model_is_taken_from_the_cache_without_mlflow(tmp_path):
    server = Server(tmp_path)
    try:
        until(server.answers)
        register(make_folders(tmp_path / "in"), server.uri, "net")
        version = look_up("models:/net@champion", server.uri)
        assert version == look_up("models:/net/1", server.uri)
        for uri in ("models:/net@champion", "models:/net/1"):
            folder = fetch.resolve_model(uri, tmp_path / "cache", server.uri)
            assert resolve_without_mlflow(uri, tmp_path / "cache", server.uri) == folder
        assert look_up("models:/net@latest", server.uri) is None
    finally:
        server.kill()
