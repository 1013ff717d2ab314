"""The registry on MLflow as a team runs it: PostgreSQL, S3, users and passwords, and connections that fail."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from components.register import fetch
from components.register.lookup import look_up
from components.tracking import connected
from model.errors import InputError
from tests.components.conftest import Proxy
from tests.registered import fuse, make_folders, make_table, register, stacks

pytestmark = pytest.mark.integration


@pytest.fixture
def cutting(mlflow_server) -> Iterator:
    """Makes proxies in front of the server that cut its answers."""
    made: list[Proxy] = []

    def make(kind: type[Proxy] = Proxy, **options: int) -> Proxy:
        made.append(kind(mlflow_server.uri, **{"after": 0, "cuts": 0} | options))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Scrambling(Proxy):
    """Turns every bit of the answers round after so many bytes of each connection."""

    def _pass(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        if left is None:
            super()._pass(source, sink, None)
            return
        while content := source.recv(4096):
            sink.sendall(content[:left] + bytes(255 - byte for byte in content[left:]))
            left = max(0, left - len(content))


class Silent(Proxy):
    """Takes every connection and never answers."""

    def _pass(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        """Pass nothing on."""


def test_a_model_goes_through_the_gate_into_the_registry_and_back(keeper, mlflow_server, bucket, tmp_path):
    import mlflow

    tables = [make_table(0.5), make_table(0.6, champion=("1", 0.5))]
    first, better = (
        register(make_folders(tmp_path / str(seed), seed, table=table), mlflow_server.uri, "ct-mri")
        for seed, table in enumerate(tables)
    )
    assert (first.standing, better.standing) == ("champion", "champion")
    with connected("") as client:
        aliases = client.get_registered_model("ct-mri").aliases
        assert {name: str(version) for name, version in aliases.items()} == {"previous": "1", "champion": "2"}
    kept = {entry.key.rpartition("/")[2] for entry in bucket.objects.filter(Prefix="files/")}
    assert {"weights.safetensors", "MLmodel", "gate.json", "report.html"} <= kept
    folder = fetch.resolve_model("models:/ct-mri@champion", tmp_path / "cache")
    wanted = fuse(tmp_path / "1" / "model", stacks())
    np.testing.assert_array_equal(fuse(folder, stacks()), wanted)
    keeper.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with connected(""):
        loaded = mlflow.pyfunc.load_model("models:/ct-mri@champion")
    np.testing.assert_allclose(loaded.predict(stacks()), wanted, atol=1e-5)

    command = [sys.executable, "-m", "pipelines.cli", "models", "rollback", "--model-name", "ct-mri", "--yes"]
    done = subprocess.run([*command, "--reason", "test"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    folder = fetch.resolve_model("models:/ct-mri@champion", tmp_path / "cache")
    np.testing.assert_array_equal(fuse(folder, stacks()), fuse(tmp_path / "0" / "model", stacks()))
    assert look_up("models:/ct-mri@champion", mlflow_server.uri) == look_up("models:/ct-mri/1", mlflow_server.uri)
    with connected("") as client:
        version = client.get_model_version("ct-mri", "2")
        assert look_up("models:/ct-mri/2", mlflow_server.uri).tags == version.tags
        place = client.get_model_version_download_uri("ct-mri", "2").removeprefix("mlflow-artifacts:/")
    for name, missing in (("artifacts/fuser/weights.safetensors", "weights.safetensors"), ("", "all")):
        for entry in bucket.objects.filter(Prefix=f"files/{place}/{name}"):
            entry.delete()
        with pytest.raises(InputError, match=rf"models:/ct-mri/2 is registered, .* gone from .* \({missing}\)"):
            fetch.resolve_model("models:/ct-mri/2", tmp_path / "other")


def test_who_may_not_is_told_so_in_one_line(keeper, mlflow_server, tmp_path):
    register(make_folders(tmp_path / "own"), mlflow_server.uri, "guarded")
    mlflow_server.add_user("reader", "only-reading-here")
    keeper.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    for password, status in (("only-reading-here", 403), ("herring-herring", 401)):
        keeper.setenv("MLFLOW_TRACKING_PASSWORD", password)
        with pytest.raises(InputError, match=f"refuses \\({status}\\).*MLFLOW_TRACKING_USERNAME") as refused:
            register(make_folders(tmp_path / str(status), 1, 0.6), mlflow_server.uri, "guarded")
        assert password not in str(refused.value) and "\n" not in str(refused.value)
    keeper.setenv("MLFLOW_TRACKING_PASSWORD", "only-reading-here")
    assert fetch.resolve_model("models:/guarded@champion", tmp_path / "cache").is_dir()
    assert look_up("models:/guarded@champion", mlflow_server.uri)
    keeper.setenv("MLFLOW_TRACKING_PASSWORD", "herring-herring")
    assert look_up("models:/guarded@champion", mlflow_server.uri) is None
    with pytest.raises(InputError, match=r"refuses \(401\)"):
        fetch.resolve_model("models:/guarded@champion", tmp_path / "cache")


def test_cut_connections_are_made_again_or_told_and_the_next_attempt_completes(
    keeper, mlflow_server, cutting, tmp_path
):
    name = "cut"
    away = cutting(after=3000, cuts=12)
    folders = make_folders(tmp_path / "in")
    with suppress(InputError):
        register(folders, away.address, name)
    made = register(folders, mlflow_server.uri, name)
    assert (made.version, made.standing) == ("1", "champion")
    with connected("") as client:
        assert len(client.search_model_versions(f"name = '{name}'")) == 1


@pytest.mark.parametrize("after", [0, 700])
def test_scrambled_answers_are_told_in_one_line(keeper, cutting, tmp_path, after):
    away = cutting(Scrambling, after=after)
    with pytest.raises(InputError, match="MLflow"):
        register(make_folders(tmp_path), away.address, "scrambled")


def test_a_server_that_never_answers_is_given_up(keeper, cutting, tmp_path):
    keeper.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    away = cutting(Silent)
    with pytest.raises(InputError, match="does not answer"):
        register(make_folders(tmp_path), away.address, "silent")


def test_a_connection_that_breaks_off_for_good_is_told(keeper, cutting, tmp_path):
    away = cutting(after=6000, cuts=10**6)
    with pytest.raises(InputError, match="breaks off") as told:
        register(make_folders(tmp_path), away.address, "broken-off")
    assert "\n" not in str(told.value)
