"""How consumers get a model out of MLflow: loaded by MLflow itself, or fetched by name, version or alias."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from components.register import fetch
from components.tracking import connected
from model.errors import InputError
from model.fuser import Fuser
from tests.components.conftest import Proxy
from tests.mlflow_servers import Server, bad_server, free_port, until
from tests.registered import fuse, make_folders, make_table, register, stacks


class TestLoaded:
    def test_it_loads_without_pickle_and_fuses_as_the_fuser_does(
        self, store: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import mlflow

        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        loaded, images = mlflow.pyfunc.load_model("models:/ct-mri@champion"), stacks()
        names = [spec.name for spec in loaded.metadata.get_input_schema()]
        example = loaded.input_example
        assert names == ["ct", "mri"] and set(example) == {"ct", "mri"}
        assert loaded.predict(example, params={"encoding": "array"}).shape == (1, 32, 32)
        np.testing.assert_allclose(loaded.predict(images), fuse(store.folders.model, images), atol=1e-5)
        np.testing.assert_allclose(
            loaded.predict(images, params={"strategy": "maximum"}),
            fuse(store.folders.model, images, "maximum"),
            atol=1e-5,
        )
        pinned = Path(mlflow.pyfunc.get_model_dependencies("models:/ct-mri/1")).read_text().split()
        assert f"torch=={torch.__version__.partition('+')[0]}" in pinned

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda image: image[:1], "ct has 1 images and mri has 2"),
            (lambda image: image[None], "shape"),
            (lambda image: image * 255, r"\[0, 1\]"),
            (lambda image: image[:, :16], "32x32"),
        ],
    )
    def test_it_refuses_what_is_no_stack_of_slices(self, store: SimpleNamespace, change: Any, message: str) -> None:
        import mlflow

        images = stacks()
        with pytest.raises(mlflow.MlflowException, match=message):
            mlflow.pyfunc.load_model("models:/ct-mri/1").predict(images | {"ct": change(images["ct"])})

    def test_it_refuses_an_unknown_strategy_naming_those_there_are(self, store: SimpleNamespace) -> None:
        import mlflow

        with pytest.raises(mlflow.MlflowException, match=r"'best'.*sfnn"):
            mlflow.pyfunc.load_model("models:/ct-mri/1").predict(stacks(), params={"strategy": "best"})

    def test_it_fuses_with_the_strategy_that_was_judged(self, store: SimpleNamespace, tmp_path: Path) -> None:
        table = make_table(0.5, ("9001",), **{"network-maximum": 0.7}) | {"candidate": "network-maximum"}
        made = register(make_folders(tmp_path / "in", table=table), store.uri, "other-strategy")
        folder = fetch.resolve_model(made.uri, tmp_path / "cache", store.uri)
        assert Fuser.load(folder).strategy == "maximum"
        assert '"strategy": "maximum"' in store.client.get_model_version("other-strategy", "1").tags["configuration"]


class TestResolve:
    def test_a_plain_path_needs_no_registry(self, tmp_path: Path) -> None:
        assert fetch.resolve_model(str(tmp_path), tmp_path / "cache") == tmp_path

    @pytest.mark.parametrize("uri", ["models:/ct-mri/1", "models:/ct-mri@champion"])
    def test_a_version_is_fetched_whole_and_kept(self, store: SimpleNamespace, tmp_path: Path, uri: str) -> None:
        folder = fetch.resolve_model(uri, tmp_path / "cache", store.uri)
        assert folder.parent == tmp_path / "cache"
        np.testing.assert_array_equal(fuse(folder, stacks()), fuse(store.folders.model, stacks()))
        (folder / "kept").touch()
        assert (fetch.resolve_model(uri, tmp_path / "cache", store.uri) / "kept").exists()

    def test_the_environment_names_the_server(
        self, store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
        assert Fuser.load(fetch.resolve_model("models:/ct-mri/1", tmp_path)).strategy == "sfnn"

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("models:/ct-mri/9", "no version 9 of ct-mri; it has 1$"),
            ("models:/ct-mri@best", "no alias best of ct-mri; it has champion$"),
            ("models:/mri-ct/1", "no model mri-ct .*ct-mri"),
            ("models:/ct-mri", "models:/NAME/VERSION"),
            ("models:/ct-mri/Production", "models:/NAME/VERSION"),
        ],
    )
    def test_what_is_not_there_is_said_with_what_is(
        self, store: SimpleNamespace, tmp_path: Path, uri: str, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            fetch.resolve_model(uri, tmp_path, store.uri)

    def test_weights_that_were_changed_in_the_store_are_refused(self, store: SimpleNamespace, tmp_path: Path) -> None:
        made = register(make_folders(tmp_path), store.uri, "tampered")
        source = store.client.get_model_version_download_uri("tampered", made.version).removeprefix("file://")
        (weights,) = Path(source).rglob("weights.safetensors")
        weights.write_bytes(b"other weights")
        with pytest.raises(InputError, match="does not hold the weights"):
            fetch.resolve_model(made.uri, tmp_path / "cache", store.uri)
        assert not list((tmp_path / "cache").iterdir())

    def test_a_configuration_that_was_changed_in_the_store_is_refused(
        self, store: SimpleNamespace, tmp_path: Path
    ) -> None:
        made = register(make_folders(tmp_path, 5), store.uri, "reconfigured")
        source = store.client.get_model_version_download_uri("reconfigured", made.version).removeprefix("file://")
        (config,) = Path(source).rglob("fuser/config.json")
        config.write_text(config.read_text().replace("sfnn", "maximum"))
        with pytest.raises(InputError, match="does not hold the configuration"):
            fetch.resolve_model(made.uri, tmp_path / "cache", store.uri)

    @pytest.mark.parametrize(
        ("gone", "named"),
        [
            ("artifacts/fuser/weights.safetensors", "weights.safetensors"),
            ("artifacts/fuser", "weights.safetensors, config.json"),
            ("artifacts", "artifacts"),
            ("MLmodel", "MLmodel"),
            ("", "all"),
        ],
    )
    def test_files_that_are_gone_from_the_store_are_named_in_one_line(
        self, store: SimpleNamespace, tmp_path: Path, gone: str, named: str
    ) -> None:
        source = Path(store.client.get_model_version_download_uri("ct-mri", "1").removeprefix("file://"))
        (source / gone).rename(tmp_path / "aside")
        try:
            with pytest.raises(InputError) as told:
                fetch.resolve_model("models:/ct-mri/1", tmp_path / "cache", store.uri)
        finally:
            (tmp_path / "aside").rename(source / gone)
        assert f"models:/ct-mri/1 is registered, but files of it are gone from file://{source} ({named});" in str(
            told.value
        )
        assert "fusion models retire models:/ct-mri/1" in str(told.value) and "\n" not in str(told.value)

    def test_what_was_damaged_in_the_cache_is_fetched_again(self, store: SimpleNamespace, tmp_path: Path) -> None:
        folder = fetch.resolve_model("models:/ct-mri/1", tmp_path, store.uri)
        (folder / "weights.safetensors").write_bytes(b"damaged")
        assert fetch.resolve_model("models:/ct-mri/1", tmp_path, store.uri) == folder
        assert Fuser.load(folder).strategy == "sfnn"

    def test_it_tells_the_names_of_the_inputs(self, store: SimpleNamespace, tmp_path: Path) -> None:
        folder = fetch.resolve_model("models:/ct-mri/1", tmp_path, store.uri)
        assert json.loads((folder / "inputs.json").read_text()) == ["ct", "mri"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real MLflow server, started and not yet awaited."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.mark.integration
class TestAway:
    """The registry answered once and does not any more."""

    def test_what_it_said_last_is_taken_from_the_cache_and_told(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        until(server.answers)
        folders = make_folders(tmp_path / "in", 6)
        register(folders, server.uri, "remembered")
        proxy, cache = Proxy(server.uri, after=0, cuts=0), tmp_path / "cache"
        uri = "models:/remembered@champion"
        folder = fetch.resolve_model(uri, cache, proxy.address)
        assert capsys.readouterr().err == ""
        proxy.close()
        assert fetch.resolve_model(uri, cache, proxy.address) == folder
        (line,) = capsys.readouterr().err.splitlines()
        assert "does not answer" in line and f"taking {uri} as of 20" in line and line.endswith("version 1")
        for other in ("models:/remembered@previous", "models:/remembered/1"):
            with pytest.raises(InputError, match=r"does not answer.*cache does not hold"):
                fetch.resolve_model(other, cache, proxy.address)
        with pytest.raises(InputError, match="does not answer"):
            fetch.resolve_model(uri, cache, f"http://127.0.0.1:{free_port()}")
        (folder / "weights.safetensors").write_bytes(b"damaged")
        with pytest.raises(InputError, match="does not answer"):
            fetch.resolve_model(uri, cache, proxy.address)

    def test_files_that_are_gone_are_no_reason_to_take_an_older_version(self, server: Server, tmp_path: Path) -> None:
        until(server.answers)
        cache, uri = tmp_path / "cache", "models:/emptied@champion"
        register(make_folders(tmp_path / "1", 11), server.uri, "emptied")
        fetch.resolve_model(uri, cache, server.uri)
        made = register(
            make_folders(tmp_path / "2", 12, table=make_table(0.6, champion=("1", 0.5))), server.uri, "emptied"
        )
        with connected(server.uri) as client:
            source = client.get_model_version_download_uri("emptied", made.version)
        shutil.rmtree(server.root / "files" / source.removeprefix("mlflow-artifacts:/"))
        with pytest.raises(InputError, match=r"^models:/emptied/2 is registered, .* gone from mlflow-artifacts:"):
            fetch.resolve_model(uri, cache, server.uri)

    @pytest.mark.parametrize(("status", "words"), [("401", "refuses"), ("503", "cache does not hold")])
    def test_a_registry_that_refuses_is_not_away(self, tmp_path: Path, status: str, words: str) -> None:
        with bad_server(status) as address, pytest.raises(InputError, match=words):
            fetch.resolve_model("models:/ct-mri@champion", tmp_path, f"http://{address}")
