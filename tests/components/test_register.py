"""The register step: what MLflow then holds, who succeeds whom, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kfp import compiler, dsl, local

from components.image import IMAGE
from components.register import component, gate, registry
from components.validate.reference import find_reference
from model.errors import InputError
from tests.mlflow_servers import Server, bad_server, free_port, until
from tests.registered import DATASET, ORIGIN, STATISTICS, Folders, fuse, make_folders, make_table, register, stacks

ROOT = Path(__file__).parents[2]
RULES = {"gate_measures": "vif", "gate_margin": 0.0, "gate_lesions": 0.5, "gate_seconds": 4.0}
CONSUMER = """
import sys, json, mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
fused = model.predict({name: numpy.load(name + ".npy") for name in ("ct", "mri")})
numpy.save("fused.npy", fused)
print(json.dumps([sys.modules["model"].__file__, "components" in sys.modules]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real MLflow server, started and not yet awaited."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


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
        assert {
            "report.html",
            "table.json",
            "table.csv",
            "per_pair.csv",
            "curves.json",
            "gate.json",
            "gate.md",
        } <= files
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
        with (
            bad_server(str(status), healthy=True) as address,
            pytest.raises(InputError, match=f"refuses.*{status}") as caught,
        ):
            register(make_folders(tmp_path), f"http://{address}", "ct-mri")
        assert "MLFLOW_TRACKING_USERNAME" in str(caught.value)


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
    names = {"experiment": "fusion", "model_name": "served", "profile": "quick"} | RULES
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
    names = {"experiment": "fusion", "model_name": "direct", "profile": "quick"} | RULES
    code = {"git_commit": "c0ffee", "code_version": "0.1.0", "pipeline_run": "run-1"}
    component.register.python_func(**code, **names, **artifacts)
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
        assert store.client.get_model_version("direct", "1").tags["pipeline_run"] == "run-1"
        summary = (tmp_path / "out" / "summary.md").read_text()
        assert "direct version 1: champion" in summary and "vif above maximum" in summary

    def test_compiled_it_tells_the_kubeflow_ui_what_its_inputs_are(self, tmp_path: Path) -> None:
        compiler.Compiler().compile(component.register, str(tmp_path / "register.yaml"))
        text = (tmp_path / "register.yaml").read_text()
        inputs = component.register.component_spec.inputs
        assert all(inputs[name].description for name in inputs)
        assert "pip install" not in text and IMAGE in text

    @pytest.mark.integration
    def test_the_local_runner_registers_with_a_server_and_a_stranger_uses_the_model(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folders = make_folders(tmp_path / "in")
        until(server.answers)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
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
        command = [sys.executable, "-c", CONSUMER, server.uri, "models:/served@champion"]
        stranger = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert stranger.returncode == 0, stranger.stderr
        package, imported_components = json.loads(stranger.stdout.splitlines()[-1])
        assert not Path(package).is_relative_to(ROOT) and not imported_components
        np.testing.assert_allclose(np.load(tmp_path / "fused.npy"), fuse(folders.model, stacks()), atol=1e-5)
