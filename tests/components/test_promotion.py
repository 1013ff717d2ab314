"""Who becomes champion of a registry, and what a registration that was cut short leaves to the next."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.evaluate import floors
from components.evaluate.evaluation import MethodResult, evaluate, read_training, write_evaluation
from components.ingest.phantom import PhantomConfig
from components.register import operations, promotion, registry, succession
from components.register.aliases import champion
from components.register.champion import fetch_champion, find_champion
from components.register.gate import Rules
from components.register.history import written
from model.errors import InputError
from model.fuser import weights_sha256
from tests.mlflow_servers import free_port
from tests.registered import make_folders, make_table, register


def test_the_better_takes_over_and_the_worse_challenges(store: SimpleNamespace, tmp_path: Path) -> None:
    champions = {0.5: None, 0.55: ("1", 0.5), 0.52: ("2", 0.55)}
    tables = {value: make_table(value, champion=champion) for value, champion in champions.items()}
    made = {
        value: register(make_folders(tmp_path / str(seed), seed, table=table), store.uri, "heirs")
        for seed, (value, table) in enumerate(tables.items())
    }
    assert [registration.promoted for registration in made.values()] == [True, True, False]
    assert made[0.52].reason == "vif 0.5200 is not above the champion (version 2) (0.5500, p 1)"
    aliases = store.client.get_registered_model("heirs").aliases
    versions = {alias: str(version) for alias, version in aliases.items()}
    assert versions == {"previous": "1", "champion": "2", "challenger": "3"}
    for version, word in (("2", "promoted"), ("3", "refused")):
        tags = store.client.get_model_version("heirs", version).tags
        run = store.client.get_run(store.client.get_model_version("heirs", version).run_id).data.tags
        assert (tags["gate"], run["gate"]) == (word, word)
        assert tags["gate_reason"] == run["gate_reason"] == made[0.55 if version == "2" else 0.52].reason
    assert store.client.get_model_version("heirs", "2").tags["promoted_over"] == "1"
    # Whoever is champion when it is judged again: of one model there is one version.
    again = register(make_folders(tmp_path / "again", table=make_table(0.5, champion=("2", 0.55))), store.uri, "heirs")
    assert (again.version, again.already_registered, again.standing) == ("1", True, "previous")


def test_an_alias_taken_away_by_hand_stays_away(store: SimpleNamespace, tmp_path: Path) -> None:
    register(make_folders(tmp_path), store.uri, "withdrawn")
    store.client.delete_registered_model_alias("withdrawn", "champion")
    again = register(make_folders(tmp_path / "again"), store.uri, "withdrawn")
    assert (again.version, again.standing) == ("1", "without an alias")


def test_a_version_that_other_rules_refused_is_judged_again(store: SimpleNamespace, tmp_path: Path) -> None:
    folders, strict = make_folders(tmp_path), Rules(margin=0.9)
    assert register(folders, store.uri, "rules", rules=strict).standing == "challenger"
    assert register(folders, store.uri, "rules", rules=strict).standing == "challenger"
    again = register(folders, store.uri, "rules")
    assert (again.version, again.already_registered, again.standing) == ("1", True, "champion")
    version = store.client.get_model_version("rules", "1")
    assert (version.tags["gate"], version.tags["gate_reason"]) == ("promoted", again.reason)
    # What the gate let through once is for people alone to take back.
    assert register(folders, store.uri, "rules", rules=strict).standing == "champion"
    store.client.delete_registered_model_alias("rules", "champion")
    assert register(folders, store.uri, "rules").standing == "without an alias"


@pytest.mark.parametrize("then", [Rules(), Rules(margin=0.9)])
@pytest.mark.parametrize("cut", [(promotion, "settle"), (succession, "write"), (promotion, "conclude")])
def test_who_is_cut_short_while_judged_again_ends_in_one_state(
    store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: tuple[Any, str], then: Rules
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("power cut")

    folders, name = make_folders(tmp_path), f"again-{cut[1]}-{then.margin}"
    register(folders, store.uri, name, rules=Rules(margin=0.9))
    with monkeypatch.context() as patch:
        patch.setattr(*cut, fail)
        with pytest.raises(RuntimeError, match="power cut"):
            register(folders, store.uri, name)
    # What became champion stays it; what did not is judged by the rules of now.
    promoted = cut[1] != "settle" or then == Rules()
    made = register(folders, store.uri, name, rules=then)
    assert (made.promoted, made.standing) == (promoted, "champion" if promoted else "challenger")
    version = store.client.get_model_version(name, "1")
    assert (version.tags["gate"], version.tags["gate_reason"]) == (promotion.word(made), made.reason)
    assert [event.version for event in written(store.client, name)] == ["1"] * promoted


def test_a_registration_cut_short_before_the_gate_is_judged_by_the_rules_of_the_next(
    store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("power cut")

    folders = make_folders(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "settle", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            register(folders, store.uri, "eased", rules=Rules(margin=0.9))
    assert register(folders, store.uri, "eased").standing == "champion"


def test_a_refused_version_that_was_made_champion_in_mlflows_page_is_not_judged_beside_itself(
    store: SimpleNamespace, tmp_path: Path
) -> None:
    folders = make_folders(tmp_path)
    register(folders, store.uri, "by-hand", rules=Rules(margin=0.9))
    store.client.set_registered_model_alias("by-hand", "champion", "1")
    store.client.delete_registered_model_alias("by-hand", "challenger")
    assert register(folders, store.uri, "by-hand").standing == "champion"


def test_a_registration_cut_short_is_finished_by_the_next(
    store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("power cut")

    folders = make_folders(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "crown", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            register(folders, store.uri, "cut")
    (version,) = store.client.search_model_versions("name = 'cut'")
    assert version.tags["qabf"] == "0.5"
    assert store.client.get_run(version.run_id).info.status == "FAILED"
    assert register(folders, store.uri, "cut").already_registered
    assert store.client.get_model_version_by_alias("cut", "champion").version == version.version
    assert store.client.get_run(version.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(("theirs", "promoted"), [(0.49, True), (0.5, False), (None, False)])
def test_who_is_overtaken_is_judged_beside_the_new_champion(
    store: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    theirs: float | None,
    promoted: bool,
) -> None:
    name = f"overtaken-by-{theirs}"
    register(make_folders(tmp_path / "first", 1), store.uri, name)
    store.client.delete_registered_model_alias(name, "champion")
    crown = promotion.crown

    def crown_the_first_before(*arguments: Any, over: str | None, **words: str) -> None:
        if over is None:
            crown(store.client, name, "1", over=None, reason="meanwhile", by="gate")
        crown(*arguments, over=over, **words)

    def measure_the_first(champion: Any, packed: Path, names: list[str]) -> MethodResult:
        assert (champion.version, champion.fuser.strategy) == ("1", "sfnn")
        if theirs is None:
            raise InputError("the packed pairs are gone")
        return MethodResult("champion", champion.title, "champion", dict.fromkeys(names, [theirs] * 8))

    monkeypatch.setattr(promotion, "crown", crown_the_first_before)
    monkeypatch.setattr(promotion, "judge_champion", measure_the_first)
    made = register(make_folders(tmp_path / "second", 2), store.uri, name)
    assert (made.promoted, made.over) == (promoted, "1")
    aliases = {k: str(v) for k, v in store.client.get_registered_model(name).aliases.items()}
    assert aliases == ({"champion": "2", "previous": "1"} if promoted else {"champion": "1", "challenger": "2"})
    version = store.client.get_model_version(name, "2")
    assert version.tags["gate_reason"] == made.reason and made.reason in version.description
    if theirs is None:
        assert "could not be measured on these pairs (the packed pairs are gone" in made.reason
    import mlflow

    assert mlflow.artifacts.load_dict(f"runs:/{version.run_id}/gate.json")["over"] == "1"


def test_the_champion_is_fetched_and_measured_on_the_candidates_pairs(
    store: SimpleNamespace, tmp_path: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floors, "HEADS", PhantomConfig(subjects=1, slices=4, size=64, seed=20))
    both = [replace(make_folders(tmp_path / str(seed), seed), packed=packed) for seed in (1, 2)]
    judged = []
    for folders in both:
        judged.append(evaluate(folders.model, packed, ["sfnn"]))
        write_evaluation(judged[-1], *read_training(folders.model), folders.evaluation)
    first, second = both
    register(first, store.uri, "measured")
    store.client.set_registered_model_alias("measured", "champion", "1")
    made = register(second, store.uri, "measured")
    (check,) = [check for check in made.checks if check["name"] == "vif above the champion (version 1)"]
    theirs, ours = (each.method("network-sfnn").mean("vif") for each in judged)
    assert (check["candidate"], check["other"], check["n"]) == (ours, pytest.approx(theirs, abs=2e-5), 2)

    # What the pipeline does: the champion's address goes to evaluation, whose table then holds it.
    assert find_champion("measured", first.model, store.uri) == ""
    address = find_champion("measured", second.model, store.uri)
    assert address == "models:/measured/1"
    row = evaluate(second.model, packed, ["sfnn"], champion=fetch_champion(address, store.uri)).method("champion")
    assert row.mean("vif") == pytest.approx(theirs, abs=2e-5)


def test_a_champion_that_cannot_be_named_or_fetched_is_said_and_stops_nothing(
    store: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = make_folders(tmp_path / "in", 3).model
    assert find_champion("nobody", folder, store.uri) == find_champion("any", folder) == ""
    assert find_champion("any", folder, f"sqlite:///{tmp_path}/none.db") == ""
    assert capsys.readouterr().out == "" and not (tmp_path / "none.db").exists()
    assert find_champion("any", folder, f"http://127.0.0.1:{free_port()}") == ""
    assert "could not be asked for its champion: MLflow server" in capsys.readouterr().out
    assert fetch_champion("models:/ct-mri/9", store.uri) is fetch_champion("") is None
    assert "the champion models:/ct-mri/9 cannot be judged: no version 9" in capsys.readouterr().out


def test_a_promotion_cut_short_and_succeeded_since_stays_one(
    store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("power cut")

    folders = make_folders(tmp_path / "first", 1)
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "conclude", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            register(folders, store.uri, "succeeded")
    table = make_table(0.6, champion=("1", 0.5))
    register(make_folders(tmp_path / "second", 2, table=table), store.uri, "succeeded")
    again = register(folders, store.uri, "succeeded")
    assert (again.promoted, again.standing) == (True, "previous")
    assert store.client.get_model_version("succeeded", "1").tags["gate"] == "promoted"


@pytest.mark.parametrize("cut", [(succession, "write"), (promotion, "conclude")])
def test_a_promotion_cut_short_and_rolled_back_by_hand_is_not_made_again(
    store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: tuple[Any, str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("power cut")

    name = f"rolled-back-{cut[1]}"
    register(make_folders(tmp_path / "first", 1), store.uri, name)
    second = make_folders(tmp_path / "second", 2, table=make_table(0.6, champion=("1", 0.5)))
    with monkeypatch.context() as patch:
        patch.setattr(*cut, fail)
        with pytest.raises(RuntimeError, match="power cut"):
            register(second, store.uri, name)
    assert champion(store.client, name) == "2"
    operations.rollback(store.client, name, over="2", to="1", reason="it blurs", by="ann")
    again = register(second, store.uri, name)
    assert (again.promoted, again.standing) == (True, "without an alias")
    assert store.client.get_registered_model(name).aliases == {"champion": 1}
    told = [(event.action, event.version) for event in written(store.client, name)]
    assert told == [("promoted", "1"), ("promoted", "2"), ("rolled back", "1")]


def test_beside_a_champion_whose_files_are_gone_a_candidate_becomes_the_challenger(
    store: SimpleNamespace, tmp_path: Path
) -> None:
    register(make_folders(tmp_path / "first", 1), store.uri, "emptied")
    shutil.rmtree(store.client.get_model_version_download_uri("emptied", "1").removeprefix("file://"))
    made = register(make_folders(tmp_path / "second", 2, 0.6), store.uri, "emptied")
    assert made.standing == "challenger"
    assert "not be measured on these pairs (models:/emptied/1 is registered, but files of it are gone" in made.reason


def test_a_failure_before_the_version_leaves_none(store: SimpleNamespace, tmp_path: Path) -> None:
    folders = make_folders(tmp_path)
    (folders.model / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged"):
        register(folders, store.uri, "damaged")
    assert not store.client.search_model_versions("name = 'damaged'")


def test_a_run_that_ended_before_its_version_is_gone_on_with(
    store: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("power cut")

    folders = make_folders(tmp_path / "in", 9)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_ensure_model", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            register(folders, store.uri, "gone-on")
    condition = f"tags.weights_sha256 = '{weights_sha256(folders.model)}'"
    experiment = store.client.get_experiment_by_name("fusion").experiment_id
    (cut,) = store.client.search_runs([experiment], condition)
    made = register(folders, store.uri, "gone-on")
    assert (made.run_id, made.standing) == (cut.info.run_id, "champion")
    assert store.client.get_run(made.run_id).info.status == "FINISHED"
