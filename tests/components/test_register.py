"""The register step: the gate's rules, what MLflow then holds, and how consumers get a model out of it."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
import torch
from kfp import compiler, dsl, local
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from components.image import IMAGE
from components.register import component, fetch, gate, registry
from components.register.record import Origin
from components.validate.reference import find_reference
from model.errors import InputError
from model.fuser import Fuser, FuserConfig
from model.network import FusionNetwork

ROOT = Path(__file__).parents[2]
DATASET = "0123456789abcdef" * 2 + ".dir"
ORIGIN = Origin(profile="quick", git_commit="c0ffee", code_version="0.1.0")
STATISTICS = {"collection": "CT-MRI", "modalities": {"CT": {"images": 3, "subjects": 3}}}
CONSUMER = """
import sys, json, mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
fused = model.predict({name: numpy.load(name + ".npy") for name in ("ct", "mri")})
numpy.save("fused.npy", fused)
print(json.dumps([sys.modules["model"].__file__, "components" in sys.modules]))
"""


def make_table(qabf: float = 0.5, pairs: tuple[str, ...] = ("9001", "9002"), **rows: float) -> dict[str, Any]:
    means = {"network-sfnn": qabf, "average": 0.4, "maximum": 0.6} | rows
    return {
        "protocol": "standard",
        "dataset_version": DATASET,
        "split": "test",
        "pairs": list(pairs),
        "subjects": ["9"],
        "measures": [{"name": "qabf", "title": "Q^AB/F", "unit": "", "direction": "higher"}],
        "candidate": "network-sfnn",
        "methods": [
            {
                "name": name,
                "title": name,
                "kind": "network" if name.startswith("network") else "baseline",
                "means": {"qabf": mean, "psnr": 20.0},
                "per_pair": {"qabf": [mean] * len(pairs), "psnr": [20.0] * len(pairs)},
            }
            for name, mean in means.items()
        ],
    }


def champion(qabf: float, table: dict[str, Any]) -> dict[str, str]:
    return {"version": "7", "qabf": str(qabf), "test_set": gate.image_set(table)}


class TestGate:
    def test_a_first_model_above_the_average_is_promoted(self) -> None:
        verdict = gate.judge(make_table(0.5), None)
        assert verdict.promoted
        assert "0.5000" in verdict.reason and "0.4000" in verdict.reason

    @pytest.mark.parametrize("qabf", [0.4, 0.3])
    def test_a_model_must_be_strictly_above_the_average(self, qabf: float) -> None:
        verdict = gate.judge(make_table(qabf), None)
        assert not verdict.promoted
        assert "average" in verdict.reason and "\n" not in verdict.reason

    def test_the_maximum_is_information_and_does_not_decide(self) -> None:
        verdict = gate.judge(make_table(0.5, maximum=0.9), None)
        (check,) = [check for check in verdict.checks if "maximum" in check["name"]]
        assert verdict.promoted
        assert check == {
            "name": "qabf above maximum",
            "candidate": 0.5,
            "other": 0.9,
            "passed": False,
            "required": False,
        }

    @pytest.mark.parametrize(("recorded", "promoted"), [(0.49, True), (0.5, True), (0.51, False)])
    def test_a_champion_on_the_same_images_must_be_reached(self, recorded: float, promoted: bool) -> None:
        table = make_table(0.5)
        verdict = gate.judge(table, champion(recorded, table))
        assert verdict.promoted is promoted
        assert "version 7" in verdict.reason

    def test_a_champion_on_other_images_needs_a_hand(self) -> None:
        verdict = gate.judge(make_table(0.9), champion(0.1, make_table(pairs=("9001", "9003"))))
        assert not verdict.promoted
        assert "other images" in verdict.reason and "alias `champion`" in verdict.reason

    def test_the_order_of_the_pairs_does_not_make_other_images(self) -> None:
        forwards, backwards = make_table(pairs=("1", "2")), make_table(pairs=("2", "1"))
        assert gate.image_set(forwards) == gate.image_set(backwards)
        assert gate.image_set(forwards) != gate.image_set(forwards | {"dataset_version": "other"})

    @pytest.mark.parametrize("broken", [math.nan, math.inf, None])
    @pytest.mark.parametrize("where", ["means", "per_pair"])
    def test_a_value_that_is_no_number_refuses_the_model(self, broken: float | None, where: str) -> None:
        table = make_table(0.5)
        table["methods"][0][where]["psnr"] = broken if where == "means" else [20.0, broken]
        verdict = gate.judge(table, None)
        assert not verdict.promoted
        assert "psnr" in verdict.reason

    def test_a_broken_headline_is_reported_as_valid_json(self) -> None:
        verdict = gate.judge(make_table(math.nan), None)
        assert not verdict.promoted
        json.dumps(verdict.checks, allow_nan=False)

    def test_subjects_seen_in_training_refuse_the_model(self) -> None:
        assert gate.judge(make_table(0.5), None, trained_on=["1", "2"]).promoted
        verdict = gate.judge(make_table(0.5), None, trained_on=["1", "9"])
        assert not verdict.promoted
        assert "subjects 9" in verdict.reason

    def test_a_table_without_the_average_or_the_measure_refuses_the_model(self) -> None:
        table = make_table(0.5)
        table["methods"] = table["methods"][:1]
        assert "average" in gate.judge(table, None).reason
        del table["methods"][0]["means"]["qabf"]
        assert "qabf" in gate.judge(table, None).reason

    def test_a_table_without_its_candidate_is_an_error(self) -> None:
        with pytest.raises(InputError, match="network-fer"):
            gate.judge(make_table() | {"candidate": "network-fer"}, None)


@dataclass(frozen=True)
class Folders:
    """The folders of the steps before: trained model, evaluation, packed dataset."""

    model: Path
    evaluation: Path
    packed: Path
    validation: Path


def make_folders(root: Path, seed: int = 0, qabf: float = 0.5, table: dict[str, Any] | None = None) -> Folders:
    folders = Folders(root / "model", root / "evaluation", root / "packed", root / "validation.json")
    torch.manual_seed(seed)
    Fuser(FusionNetwork(), FuserConfig("sfnn")).save(folders.model)
    losses = {"total": 0.5, "l2": 0.25, "gradient": 0.5, "perceptual": 0.75}
    curves = [{"epoch": epoch, "step": 20 * epoch, "train": losses, "validation": losses} for epoch in (1, 2)]
    training = {"seed": seed, "epochs": 2, "batch": 4, "crop": 32, "perceptual": "random", "processes": 1}
    training |= {"seconds": 3.5, "images_per_second": 40.0, "dataset_version": DATASET, "libraries": {"torch": "2.13"}}
    (folders.model / "curves.json").write_text(json.dumps(curves))
    (folders.model / "training.json").write_text(json.dumps(training))
    folders.evaluation.mkdir(parents=True)
    (folders.evaluation / "table.json").write_text(json.dumps(table or make_table(qabf)))
    for name in ("table.csv", "per_pair.csv", "report.html"):
        (folders.evaluation / name).write_text(name)
    folders.packed.mkdir()
    entries = {"train": "1001", "validation": "2001", "test": "9001"}
    splits = {split: [{"name": name, "subject": name[0], "slice": 1}] for split, name in entries.items()}
    index = {"dataset_version": DATASET, "collection": "CT-MRI", "modalities": ["CT", "MRI"], "splits": splits}
    (folders.packed / "index.json").write_text(json.dumps(index))
    folders.validation.write_text(json.dumps({"passed": True, "statistics": STATISTICS}))
    return folders


def register(folders: Folders, uri: str, name: str) -> registry.Registration:
    three = (folders.model, folders.evaluation, folders.packed)
    names = {"experiment": "fusion", "model_name": name}
    return registry.register(*three, ORIGIN, tracking_uri=uri, **names, validation=folders.validation)


def stacks() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.random((2, 32, 32), dtype=np.float32) for name in ("ct", "mri")}


def fuse(folder: Path, images: dict[str, np.ndarray], strategy: str | None = None) -> np.ndarray:
    ct, mri = (torch.from_numpy(images[name])[:, None] for name in ("ct", "mri"))
    return Fuser.load(folder, strategy).fuse(ct, mri)[:, 0].numpy()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server, started and not yet awaited."""
    root, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/server.db", "--artifacts-destination", str(root / "files")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, server: str) -> Iterator[SimpleNamespace]:
    """A local MLflow with one registered model, `ct-mri` version 1; the server starts up beside its first steps."""
    root = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{root}/mlflow.db"
    folders = make_folders(root / "first")
    made = register(folders, uri, "ct-mri")
    import mlflow

    client = mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(uri)
    yield SimpleNamespace(root=root, uri=uri, folders=folders, made=made, client=client)
    mlflow.set_tracking_uri(None)


class TestVersion:
    def test_the_first_version_is_the_champion_and_carries_its_lineage(self, store: SimpleNamespace) -> None:
        version = store.client.get_model_version("ct-mri", "1")
        assert store.made.promoted and not store.made.already_registered
        assert (store.made.uri, store.made.version, store.made.tracking_uri) == ("models:/ct-mri/1", "1", store.uri)
        assert version.aliases == ["champion"]
        assert version.run_id == store.made.run_id
        assert json.loads(version.tags["configuration"])["strategy"] == "sfnn"
        expected = {"dataset_version": DATASET, "seed": "0", "qabf": "0.5", "profile": "quick", "git_commit": "c0ffee"}
        assert expected.items() <= version.tags.items()
        assert version.tags["code_version"] == "0.1.0"
        assert version.tags["test_set"] == gate.image_set(make_table())
        assert store.made.reason in version.description and "| Q^AB/F | 0.5000 | 0.4000 |" in version.description

    def test_the_run_holds_settings_measures_curves_and_reports(self, store: SimpleNamespace) -> None:
        run = store.client.get_run(store.made.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params["libraries.torch"] == "2.13" and run.data.params["epochs"] == "2"
        assert run.data.metrics["qabf"] == 0.5
        assert run.data.metrics["network-sfnn/qabf"] == 0.5 and run.data.metrics["average/qabf"] == 0.4
        curve = store.client.get_metric_history(run.info.run_id, "loss/validation/gradient")
        assert [(point.step, point.value) for point in curve] == [(20, 0.5), (40, 0.5)]
        files = {file.path for file in store.client.list_artifacts(run.info.run_id)}
        assert {"report.html", "table.json", "table.csv", "per_pair.csv", "curves.json", "gate.json"} <= files
        assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == [DATASET]

    def test_the_inputs_of_another_collection_bear_its_modalities(self, store: SimpleNamespace, tmp_path: Path) -> None:
        import mlflow

        folders = make_folders(tmp_path / "in")
        index = json.loads((folders.packed / "index.json").read_text())
        index |= {"collection": "SPECT-MRI", "modalities": ["SPECT", "MRI"]}
        (folders.packed / "index.json").write_text(json.dumps(index))
        made = register(folders, store.uri, "spect-mri")
        assert mlflow.models.get_model_info(made.uri).signature.inputs.input_names() == ["spect", "mri"]
        assert "`spect` and `mri`" in store.client.get_registered_model("spect-mri").description
        assert store.client.get_model_version("spect-mri", made.version).tags["collection"] == "SPECT-MRI"

    def test_the_champion_tells_the_statistics_of_the_data_it_learned_from(
        self, store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert registry.champion_statistics("ct-mri", store.uri) == ("1", STATISTICS)
        assert registry.champion_statistics("nobody", store.uri) == ("", None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
        found = find_reference("ct-mri", "CT-MRI")
        assert (found.champion, found.statistics) == ("ct-mri version 1", STATISTICS["modalities"])
        assert find_reference("ct-mri", "PET-MRI").missing == "ct-mri version 1 learned from CT-MRI"
        assert find_reference("nobody", "CT-MRI").missing == "nobody has no champion yet"

    def test_its_files_lie_beside_the_database(self, store: SimpleNamespace) -> None:
        location = store.client.get_experiment_by_name("fusion").artifact_location
        assert location == (store.root / "artifacts").as_uri()

    def test_a_new_experiment_keeps_its_files_in_the_folder_given(self, store: SimpleNamespace, tmp_path: Path) -> None:
        folders = make_folders(tmp_path / "in")
        registry.register(
            folders.model,
            folders.evaluation,
            folders.packed,
            ORIGIN,
            tracking_uri=store.uri,
            experiment="own",
            model_name="own",
            artifact_folder=tmp_path / "files",
        )
        assert list((tmp_path / "files").rglob("report.html")) and list((tmp_path / "files").rglob("MLmodel"))

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

    def test_the_same_model_again_makes_no_second_version(self, store: SimpleNamespace) -> None:
        again = register(store.folders, store.uri, "ct-mri")
        assert again.already_registered
        assert (again.version, again.run_id, again.checks) == ("1", store.made.run_id, store.made.checks)
        assert len(store.client.search_model_versions("name = 'ct-mri'")) == 1

    def test_mlflow_is_not_heard(
        self, store: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        capfd.readouterr()
        register(make_folders(tmp_path), store.uri, "silent")
        assert capfd.readouterr() == ("", "")


class TestSuccession:
    def test_the_better_takes_over_and_the_worse_challenges(self, store: SimpleNamespace, tmp_path: Path) -> None:
        made = {
            qabf: register(make_folders(tmp_path / str(seed), seed, qabf), store.uri, "heirs")
            for seed, qabf in enumerate((0.5, 0.55, 0.52))
        }
        assert [registration.promoted for registration in made.values()] == [True, True, False]
        assert "0.5200" in made[0.52].reason and "0.5500" in made[0.52].reason
        aliases = store.client.get_registered_model("heirs").aliases
        versions = {alias: str(version) for alias, version in aliases.items()}
        assert versions == {"previous": "1", "champion": "2", "challenger": "3"}
        again = register(make_folders(tmp_path / "again", qabf=0.50), store.uri, "heirs")
        assert (again.version, again.already_registered, again.standing) == ("1", True, "previous")

    def test_an_alias_taken_away_by_hand_stays_away(self, store: SimpleNamespace, tmp_path: Path) -> None:
        register(make_folders(tmp_path), store.uri, "withdrawn")
        store.client.delete_registered_model_alias("withdrawn", "champion")
        again = register(make_folders(tmp_path / "again"), store.uri, "withdrawn")
        assert (again.version, again.standing) == ("1", "without an alias")

    def test_a_registration_cut_short_is_finished_by_the_next(
        self, store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("power cut")

        folders = make_folders(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(registry, "_set_aliases", fail)
            with pytest.raises(RuntimeError, match="power cut"):
                register(folders, store.uri, "cut")
        (version,) = store.client.search_model_versions("name = 'cut'")
        assert version.tags["qabf"] == "0.5"
        assert store.client.get_run(version.run_id).info.status == "FAILED"
        assert register(folders, store.uri, "cut").already_registered
        assert store.client.get_model_version_by_alias("cut", "champion").version == version.version

    def test_a_failure_before_the_version_leaves_none(self, store: SimpleNamespace, tmp_path: Path) -> None:
        folders = make_folders(tmp_path)
        (folders.model / "weights.safetensors").write_bytes(b"damaged")
        with pytest.raises(InputError, match="damaged"):
            register(folders, store.uri, "damaged")
        assert not store.client.search_model_versions("name = 'damaged'")


class TestBadInput:
    def test_missing_and_foreign_folders_are_named(self, tmp_path: Path) -> None:
        folders = make_folders(tmp_path / "a", table=make_table() | {"dataset_version": "other"})
        with pytest.raises(InputError, match="judges dataset other"):
            register(folders, "", "ct-mri")
        (folders.evaluation / "table.json").unlink()
        with pytest.raises(InputError, match=r"table\.json"):
            register(folders, "", "ct-mri")

    def test_a_name_mlflow_cannot_take_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="'ct/mri'"):
            register(make_folders(tmp_path), "", "ct/mri")

    @pytest.mark.parametrize(
        ("uri", "message"), [("", "set MLFLOW_TRACKING_URI"), ("/tmp/mlruns", "sqlite:"), ("ftp://host", "sqlite:")]
    )
    def test_a_tracking_uri_that_cannot_serve(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, message: str
    ) -> None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(InputError, match=message):
            register(make_folders(tmp_path), uri, "ct-mri")

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("this is a text file, not an sqlite database")
        with pytest.raises(InputError, match=r"mlflow\.db is no database"):
            register(make_folders(tmp_path), f"sqlite:///{tmp_path}/mlflow.db", "ct-mri")

    def test_a_server_that_is_down_and_its_password(self, tmp_path: Path) -> None:
        uri = f"http://me:secret@127.0.0.1:{free_port()}"
        with pytest.raises(InputError, match="does not answer: start it or unset MLFLOW_TRACKING_URI") as caught:
            register(make_folders(tmp_path), uri, "ct-mri")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_server_that_refuses_this_user(self, tmp_path: Path, status: int) -> None:
        with refusing_server(status) as uri, pytest.raises(InputError, match=f"refuses.*{status}") as caught:
            register(make_folders(tmp_path), uri, "ct-mri")
        assert "MLFLOW_TRACKING_USERNAME" in str(caught.value)


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
            ("models:/ct-mri/9", "no model version 9 of ct-mri; it has 1$"),
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


@dsl.component(install_kfp_package=False)
def provide(
    root: str,
    packed: dsl.Output[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    table: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
) -> None:
    import shutil

    shutil.copyfile(f"{root}/validation.json", report.path)
    for name, artifact in (("packed", packed), ("model", model), ("evaluation", table)):
        shutil.copytree(f"{root}/{name}", artifact.path)


@dsl.pipeline(name="register-alone")
def alone(root: str) -> None:
    given = provide(root=root).outputs
    folders = {"dataset": given["packed"], "model": given["model"], "evaluation": given["table"]}
    folders["validation"] = given["report"]
    names = {"experiment": "fusion", "model_name": "served", "profile": "quick"}
    component.register(**folders, **names, git_commit="c0ffee", code_version="0.1.0")


def run_component(folders: Folders, out: Path) -> dict[str, Any]:
    out.mkdir()
    artifacts = {
        "dataset": dsl.Dataset(uri=str(folders.packed)),
        "model": dsl.Model(uri=str(folders.model)),
        "evaluation": dsl.Dataset(uri=str(folders.evaluation)),
        "validation": dsl.Artifact(uri=str(folders.validation)),
        "registration": dsl.Artifact(uri=str(out / "registration.json")),
        "summary": dsl.Markdown(uri=str(out / "summary.md")),
    }
    names = {"experiment": "fusion", "model_name": "direct", "profile": "quick"}
    component.register.python_func(git_commit="c0ffee", code_version="0.1.0", **names, **artifacts)
    return dict(artifacts["registration"].metadata)


class TestComponent:
    def test_called_directly_it_writes_the_registration(
        self, store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
        metadata = run_component(make_folders(tmp_path / "in"), tmp_path / "out")
        written = json.loads((tmp_path / "out" / "registration.json").read_text())
        assert metadata == {"version": "1", "standing": "champion", "uri": "models:/direct/1"}
        assert (written["model_name"], written["promoted"], written["already_registered"]) == ("direct", True, False)
        assert {"version", "uri", "run_id", "reason", "checks", "tracking_uri"} <= set(written)
        summary = (tmp_path / "out" / "summary.md").read_text()
        assert "direct version 1: champion" in summary and "qabf above maximum" in summary

    def test_compiled_it_tells_the_kubeflow_ui_what_its_inputs_are(self, tmp_path: Path) -> None:
        compiler.Compiler().compile(component.register, str(tmp_path / "register.yaml"))
        text = (tmp_path / "register.yaml").read_text()
        inputs = component.register.component_spec.inputs
        assert all(inputs[name].description for name in inputs)
        assert "pip install" not in text and IMAGE in text

    def test_the_local_runner_registers_with_a_server_and_a_stranger_uses_the_model(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folders = make_folders(tmp_path / "in")
        session = requests.Session()
        session.mount("http://", HTTPAdapter(max_retries=Retry(total=400, backoff_factor=0.5, backoff_max=0.5)))
        session.get(f"{server}/health", timeout=60).raise_for_status()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "runs"))
        alone(root=str(tmp_path / "in"))
        (registration,) = (tmp_path / "runs").rglob("registration")
        written = json.loads(registration.read_text())
        assert (written["uri"], written["promoted"]) == ("models:/served/1", True)

        for name, stack in stacks().items():
            np.save(tmp_path / f"{name}.npy", stack)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-c", CONSUMER, server, "models:/served@champion"]
        stranger = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert stranger.returncode == 0, stranger.stderr
        package, imported_components = json.loads(stranger.stdout.splitlines()[-1])
        assert not Path(package).is_relative_to(ROOT) and not imported_components
        np.testing.assert_allclose(np.load(tmp_path / "fused.npy"), fuse(folders.model, stacks()), atol=1e-5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def refusing_server(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else status)
            self.end_headers()
            self.wfile.write(b"who are you?")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
