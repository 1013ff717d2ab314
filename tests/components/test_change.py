"""Whether a scheduled training goes on: data, code and settings beside what the registered versions were made of."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ingest import publish
from components import code
from components.change.decision import CHECKED, Source, decide, last_look
from components.ingest import version as versioning
from components.ingest.phantom import PhantomConfig, write_phantom
from components.ingest.version import data_files, folder_version
from components.register import registry
from components.register.catalogue import aliases, models, versions
from components.register.recipe import recipe_tag, values
from components.register.record import Origin
from components.tracking import connected
from components.validate.drift import summarise
from model.errors import InputError
from tests.registered import ORIGIN, make_folders, make_table

PHANTOM = PhantomConfig(subjects=3, slices=2, size=64)
SETTINGS = json.dumps({"epochs": 12, "network": "dilran", "clip": 0.0})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "data"
    write_phantom(folder, PHANTOM)
    return folder


def source(data: Path, version: str = "") -> Source:
    return Source(str(data), version, "CT-MRI", PHANTOM)


@pytest.fixture
def made(store, data, tmp_path, monkeypatch, request):
    """A registered version of the data, and what asks whether to train again; the model is named after the test."""
    name = request.node.name.replace("[", "-").replace("]", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)

    def register(seed: int, value: float = 0.5, settings: str = SETTINGS, code: str = "a", data: Path = data) -> str:
        pinned = folder_version(data)
        folders = make_folders(tmp_path / f"{seed}", seed, table=make_table(value) | {"dataset_version": pinned})
        index = json.loads((folders.packed / "index.json").read_text()) | {"dataset_version": pinned}
        (folders.packed / "index.json").write_text(json.dumps(index))
        three = (folders.model, folders.evaluation, folders.packed)
        origin = replace(ORIGIN, code_version=code, settings=settings)
        return registry.register(
            *three, origin, tracking_uri=store.uri, experiment="e", model_name=name, validation=folders.validation
        ).version

    def ask(data: Path = data, version: str = "", settings: str = SETTINGS, code: str = "a", **more):
        return decide(source(data, version), name, settings, code, **more)

    ask.register, ask.name, ask.folder = register, name, tmp_path
    return ask


def test_the_first_training_needs_no_reason(made):
    decision = made()
    assert decision.train and "has no champion" in decision.reason


def test_nothing_new_ends_it_and_force_goes_on(made, data):
    made.register(1)
    decision = made(run="run-7")
    assert not decision.train and decision.data_version == folder_version(data)
    assert decision.reason == "version 1 was made of this data, code and settings and is the champion"
    with connected("") as client:
        assert last_look(client, made.name, "run-7") == decision.reason
        assert last_look(client, made.name, "run-8") == ""
        kept = json.loads(models(client, made.name)[0].tags[CHECKED])
    assert (kept["train"], kept["run"]) == (False, "run-7")
    forced = made(force=True, run="run-7")
    assert forced.train and forced.reason.startswith("forced, though version 1")
    with connected("") as client:
        assert last_look(client, made.name, "run-7") == "", "the last look was to train"


def test_without_a_version_of_the_code_it_is_the_one_that_runs(made):
    origin = Origin.here("quick", "unknown", "", "run-1", SETTINGS)
    assert (origin.git_commit, origin.code_version) == (code.git_commit(), code.code_version())
    made.register(1, code=origin.code_version)
    assert not made(code="").train and made(code="b").train


def test_what_changed_since_the_champion_is_told(made, data, tmp_path):
    made.register(1)
    code = made(code="b")
    assert code.train and code.reason == "since version 1, the champion: the code changed from a to b"
    settings = made(settings=SETTINGS.replace("12", "30"))
    assert settings.train and "settings changed (epochs 12 -> 30)" in settings.reason
    other = tmp_path / "data"
    shutil.copytree(data, other)
    sorted((other / "CT-MRI" / "CT").iterdir())[0].unlink()
    changed = made(other)
    assert changed.train and changed.data_version == folder_version(other) != folder_version(data)
    assert f"the data changed from {folder_version(data)} to {folder_version(other)}" in changed.reason
    assert "drift not compared" in changed.reason, "the champion's statistics are of no real data"


def test_numbers_are_told_apart_by_value_since_runners_write_them_differently(made):
    made.register(1)
    assert not made(settings='{"network": "dilran", "clip": 0, "epochs": 12.0}').train


@pytest.mark.parametrize("older", ["", "min_pairs=16 split=subject epochs=12.0"], ids=["none", "text"])
def test_a_champion_whose_settings_cannot_be_read_is_trained_anew(made, store, older: str):
    made.register(1)
    store.client.set_model_version_tag(made.name, "1", "settings", older)
    decision = made(code="b")
    assert decision.train and decision.reason.endswith("its settings are not known")


@pytest.mark.parametrize("arrived", ["16", "{{$.inputs.parameters['pipelinechannel--settings-Output']}}", '["epochs"]'])
def test_settings_that_the_runner_did_not_fill_in_are_refused_since_all_would_look_the_same(made, arrived: str):
    with pytest.raises(InputError, match="the settings arrived as"):
        made(settings=arrived)


def test_a_refused_version_is_not_made_over_and_over(made, data, tmp_path):
    made.register(1, value=0.5)
    other = tmp_path / "data"
    shutil.copytree(data, other)
    sorted((other / "CT-MRI" / "CT").iterdir())[0].unlink()
    assert made(other).train
    made.register(2, value=0.3, data=other)
    decision = made(other)
    assert not decision.train
    assert decision.reason.startswith(
        "version 2 was made of this data, code and settings already, and the gate refused"
    )
    assert "vif 0.3000 is not above" in decision.reason


def test_a_champion_of_earlier_was_not_refused_by_the_gate(made):
    from components.register.operations import promote

    made.register(1)
    made.register(2, value=0.3, code="b")
    with connected("") as client:
        (model,) = models(client, made.name)
        promote(client, versions(client, model)[1], over="1", reason="sharper", by="test")
    decision = made(code="a")
    assert not decision.train
    assert "settings already; it was promoted, and is the champion no more" in decision.reason
    assert "`fusion models promote 1` brings it back" in decision.reason


def test_a_file_that_goes_while_the_folder_is_read_is_named(made, data, tmp_path, monkeypatch):
    other = tmp_path / "data"
    shutil.copytree(data, other)
    gone = data_files(other)[1]
    monkeypatch.setattr(versioning, "data_files", lambda folder: [*data_files(folder), gone.with_suffix(".gone")])
    with pytest.raises(InputError, match=r"cannot read .*\.gone: .*nothing is changing the folder"):
        made(other)


def test_the_same_weights_from_newer_code_count_as_made_by_it(made):
    assert made.register(1, code="a") == "1"
    assert made(code="b").train
    shutil.rmtree(made.folder / "1")
    assert made.register(1, code="b") == "1", "registered before"
    assert not made(code="b").train and not made(code="a").train


def test_a_registration_that_was_cut_short_is_finished(made):
    made.register(1)
    with connected("") as client:
        client.delete_model_version_tag(made.name, "1", "gate")
    assert made().train


def test_a_registry_that_takes_no_note_is_still_compared_with(made, monkeypatch, capsys):
    from mlflow import MlflowClient, MlflowException

    def refuse(*_):
        raise MlflowException("Permission denied")

    made.register(1)
    monkeypatch.setattr(MlflowClient, "set_registered_model_tag", refuse)
    assert not made().train
    assert "did not take the note of this decision: Permission denied" in capsys.readouterr().out


def test_a_retired_version_is_not_made_again(made):
    from components.register.operations import retire

    made.register(1)
    with connected("") as client:
        (model,) = models(client, made.name)
        (version,) = versions(client, model)
        retire(client, version, without_champion=True, reason="consent withdrawn", by="test")
        assert not aliases(models(client, made.name)[0])
    decision = made()
    assert not decision.train
    assert decision.reason.endswith("settings already, and is retired: consent withdrawn")
    assert made(force=True).train and made(code="b").train


def test_new_data_is_measured_for_drift_from_the_champions(made, data, tmp_path, store):
    from components.ingest.dataset import ingest
    from components.validate.measurements import measure_images

    ingest(str(data), "", PHANTOM, tmp_path / "ingested")
    statistics = summarise(measure_images(tmp_path / "ingested"))
    made.register(1)
    (run,) = {version.run_id for version in store.client.search_model_versions(f"name = '{made.name}'")}

    def champion_learned(mean: float) -> None:
        for modality in statistics.values():
            modality["mean"] |= {"mean": modality["mean"]["mean"] + mean}
        store.client.log_dict(run, {"collection": "CT-MRI", "modalities": statistics}, "data_statistics.json")

    other = tmp_path / "other"
    write_phantom(other, replace(PHANTOM, seed=5))
    champion_learned(0.0)
    assert made(other).reason.endswith("no drift in its statistics")
    champion_learned(150.0)
    assert made(other).reason.endswith("drift in mean of CT, mean of MRI")


def test_the_latest_version_on_s3_is_followed(made, data, client, remote, tmp_path):
    def push(folder: Path) -> str:
        version = publish(client, remote, [(path.relative_to(folder).as_posix(), path) for path in data_files(folder)])
        pin = f"outs:\n- md5: {version}\n  size: 1\n  nfiles: 1\n  hash: md5\n  path: data\n"
        client.put_object(Bucket=remote.bucket, Key=f"{remote.prefix}/data.dvc", Body=pin.encode())
        return version

    def ask():
        return decide(Source(str(remote), "latest", "CT-MRI", PHANTOM), made.name, SETTINGS, "a")

    assert push(data) == folder_version(data)
    made.register(1)
    same = ask()
    assert not same.train and same.data_version == folder_version(data)
    other = tmp_path / "data"
    shutil.copytree(data, other)
    for modality in ("CT", "MRI"):
        sorted((other / "CT-MRI" / modality).iterdir())[0].unlink()
    new = push(other)
    changed = ask()
    assert changed.train and changed.data_version == new
    assert f"the data changed from {folder_version(data)} to {new}" in changed.reason


@pytest.mark.parametrize(
    ("place", "version", "words"),
    [
        ("absent", "", "no such data folder: absent"),
        ("s3://bucket/x", "", "holds many versions; name one"),
        ("s3:/bucket", "latest", "no such data folder"),
    ],
)
def test_data_that_cannot_be_asked_is_refused(made, place, version, words):
    with pytest.raises(InputError, match=words):
        decide(Source(place, version, "CT-MRI", PHANTOM), made.name, SETTINGS, "a")


def test_data_that_is_not_the_version_asked_for_is_refused(made):
    with pytest.raises(InputError, match=r"is version \w+\.dir, not 0+\.dir"):
        made(version="0" * 32 + ".dir")


def test_without_a_registry_there_is_nothing_to_compare_with(data, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="set MLFLOW_TRACKING_URI"):
        decide(source(data), "m", SETTINGS, "a")
    fresh = decide(source(data), "m", SETTINGS, "a", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert fresh.train and not (tmp_path / "mlflow.db").exists()


settings = st.dictionaries(
    st.text("abcdefgh_", min_size=1, max_size=8), st.integers(-99, 99) | st.text(min_size=1) | st.booleans(), max_size=5
)


@given(settings, settings)
def test_a_recipe_is_of_the_values_whatever_their_order_and_the_way_numbers_are_written(one, other):
    def written(chosen, number):
        return json.dumps({key: number(value) if type(value) is int else value for key, value in chosen})

    plain = written(one.items(), int)
    assert recipe_tag("d", "c", plain) == recipe_tag("d", "c", written(reversed(one.items()), float))
    same = recipe_tag("d", "c", plain) == recipe_tag("d", "c", written(other.items(), int))
    assert same == (values(plain) == values(written(other.items(), int)))
    assert recipe_tag("d", "c", plain) != recipe_tag("d", "c2", plain)
