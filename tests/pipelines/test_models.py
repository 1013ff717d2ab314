"""The `fusion models` commands against a real registry: lineage both ways, differences, cards, who is champion."""

import hashlib
import json
import re
from types import SimpleNamespace

import pytest

from components.register import history, operations, webhook
from components.register.aliases import champion
from components.register.catalogue import choose
from components.register.history import PROMOTED, Event, champions
from components.register.record import Origin
from components.register.succession import Overtaken
from components.tracking import connected
from model.errors import InputError
from tests import registered as steps
from tests.mlflow_servers import Quiet, bad_server, free_port, serving
from tests.registered import make_folders, make_table, register

FIRST, SECOND = ("0" * 32 + ".dir", "1" * 32 + ".dir")
WHO = {
    "1": {"train": ("1001", "1002", "2001", "2002"), "validation": ("3001",), "test": ("9001",)},
    "2": {"train": ("1001", "1002", "2001", "4001"), "validation": ("3001",), "test": ("9001",)},
    "3": {"train": ("1001", "1002", "3001", "4001"), "validation": ("2001",), "test": ("9001",)},
}
OTHER = {"train": ("1001", "5001"), "validation": ("6001",), "test": ("9001",)}


def md5(*parts):
    return hashlib.md5("/".join(parts).encode()).hexdigest()


def pairs(names, edition, hashed=True):
    entries = [{"name": name, "subject": name[:-3], "slice": int(name[-3:])} for name in names]
    if hashed:
        for entry in entries:
            changed = edition if entry["name"] == "1001" else FIRST
            entry["md5"] = [md5(modality, entry["name"], changed) for modality in ("first", "MRI")]
    return entries


def registered(store, name, seed, value, splits, edition=FIRST, champion=None, collection="CT-MRI", **training):
    """A version made as the pipeline makes it, of a packed dataset that says who is in which split."""
    table = make_table(value, champion=champion) | {"dataset_version": edition}
    folders = make_folders(store.root / f"{name}-{seed}", seed, table=table)
    index = json.loads((folders.packed / "index.json").read_text())
    index |= {"dataset_version": edition, "collection": collection, "source": "phantom"}
    index |= {"split": {"by": "subject", "seed": 0}, "modalities": [collection[:-4], "MRI"]}
    index["splits"] = {split: pairs(names, edition) for split, names in splits.items()}
    (folders.packed / "index.json").write_text(json.dumps(index))
    facts = json.loads((folders.model / "training.json").read_text()) | {"dataset_version": edition} | training
    (folders.model / "training.json").write_text(json.dumps(facts))
    return register(folders, store.uri, name)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six versions of three models: one of another collection, one trained elsewhere, two of which nobody knows."""
    root = tmp_path_factory.mktemp("store")
    (root / "runs").mkdir()
    made = SimpleNamespace(root=root, runs=root / "runs", uri=f"sqlite:///{root}/runs/mlflow.db")
    registered(made, "ct-mri", 1, 0.5, WHO["1"])
    registered(made, "ct-mri", 2, 0.6, WHO["2"], SECOND, ("1", 0.5))
    registered(made, "ct-mri", 3, 0.7, WHO["3"], SECOND, ("2", 0.6), learning_rate=0.5)
    registered(made, "ct-mri", 4, 0.5, WHO["1"], champion=("3", 0.7), dataset_version="2" * 32 + ".dir")
    registered(made, "pet-mri", 5, 0.5, OTHER, collection="PET-MRI")
    with connected(made.uri) as client:
        client.create_registered_model("by-hand")
        run = client.create_run(client.get_experiment_by_name("fusion").experiment_id)
        client.create_model_version("by-hand", source="elsewhere")
        client.create_model_version("by-hand", source="elsewhere", run_id=run.info.run_id)
    return made


@pytest.fixture
def models(store, fusion, monkeypatch):
    """Run `fusion models` on that registry; with json=True its answer, read."""
    monkeypatch.setenv("FUSION_RUNS", str(store.runs))
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments, json_=False):
        done = fusion("models", *arguments, *(["--json"] if json_ else []))
        return (done.returncode, json.loads(done.stdout)) if json_ else done

    return call


@pytest.fixture
def heirs(store, request):
    """A model with four versions, of which the first three were promoted one after the other."""
    name = re.sub(r"\W", "-", request.node.name)
    with connected(store.uri) as client:
        client.create_registered_model(name)
        for number in ("1", "2", "3", "4"):
            client.create_model_version(name, source="elsewhere")
            if number != "4":
                promote(client, name, number)
        yield SimpleNamespace(name=name, client=client)
        client.delete_registered_model(name)


def promote(client, name, number):
    over = champion(client, name)
    operations.promote(client, choose(client, number, name), over=over, reason="better", by="ann")


def standing(client, name):
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


class TestLineage:
    def test_forth_and_back_agree_on_every_subject_of_every_version(self, models):
        forth = {}
        for version in ("1", "2", "3"):
            _, facts = models("lineage", f"models:/ct-mri/{version}", json_=True)
            forth |= {("ct-mri", version, s): who for s, who in facts["data"]["subjects"].items()}
        _, facts = models("lineage", "models:/pet-mri/1", json_=True)
        forth |= {("pet-mri", "1", split): who for split, who in facts["data"]["subjects"].items()}
        back = {key: [] for key in forth}
        for subject in ("1", "2", "3", "4", "5", "6", "9", "7"):
            _, found = models("lineage", "--subject", subject, json_=True)
            for row in found["saw"]:
                for split, names in row["pairs"].items():
                    if names and (row["model"], row["version"], split) in back:
                        back[row["model"], row["version"], split].append(subject)
        assert back == forth
        assert back["ct-mri", "2", "train"] == ["1", "2", "4"]

    def test_the_pairs_of_a_subject_are_all_named(self, models):
        _, found = models("lineage", "--subject", "1", json_=True)
        rows = {(row["model"], row["version"]): row["pairs"] for row in found["saw"]}
        assert rows["ct-mri", "3"] == {"train": ["1001", "1002"], "validation": [], "test": []}
        assert rows["pet-mri", "1"]["train"] == ["1001"]

    def test_an_answer_names_what_was_looked_for(self, models):
        # A mistyped file name is taken for a pair's name, which the reader must see.
        assert models("lineage", "--image", "absent.png").stdout.startswith("no version saw pair absent\n")
        assert "saw pair 1001 of CT-MRI:\n" in models("lineage", "--image", "CT-MRI/CT/1001.png").stdout
        assert models("lineage", "--image", "A" * 32).stdout.startswith("no version saw the image with MD5 aaaa")

    def test_whose_split_is_unknown_is_named_and_the_answer_is_not_complete(self, models):
        code, found = models("lineage", "--subject", "7", json_=True)
        unknown = {(row["model"], row["version"]): row["why"] for row in found["unknown"]}
        assert code == 1 and not found["saw"]
        assert unknown["by-hand", "1"] == "it has no run"
        assert "no split.json" in unknown["by-hand", "2"]
        assert "trained on another dataset version" in unknown["ct-mri", "4"]
        assert len(unknown) + len(found["did_not"]) == 7
        done = models("lineage", "--subject", "7")
        assert done.returncode == 1 and "no version saw subject 7\n" in done.stdout
        assert "by-hand version 1: it has no run" in done.stdout and "4 versions did not" in done.stdout

    def test_what_is_known_of_a_version_trained_elsewhere_is_told_beside_what_is_not(self, models):
        _, found = models("lineage", "--subject", "9", "--model-name", "ct-mri", json_=True)
        assert {"4"} < {row["version"] for row in found["saw"]}
        assert [row["version"] for row in found["unknown"]] == ["4"]

    def test_a_collection_narrows_it_and_the_path_of_an_image_names_one(self, models):
        _, found = models("lineage", "--subject", "1", "--collection", "PET-MRI", json_=True)
        assert [row["model"] for row in found["saw"]] == ["pet-mri"]
        _, found = models("lineage", "--image", "CT-MRI/MRI/1001.png", json_=True)
        assert {row["model"] for row in found["saw"]} == {"ct-mri"}

    def test_an_image_is_found_by_name_and_by_content_under_any_name(self, models, tmp_path, monkeypatch):
        _, by_name = models("lineage", "--image", "1001", "--model-name", "ct-mri", json_=True)
        assert [row["version"] for row in by_name["saw"]] == ["1", "2", "3"]
        _, old = models("lineage", "--image", md5("MRI", "1001", FIRST).upper(), "--model-name", "ct-mri", json_=True)
        assert [row["version"] for row in old["saw"]] == ["1"]
        (tmp_path / "renamed.png").write_text("/".join(("first", "1001", SECOND)))
        _, new = models("lineage", "--image", "renamed.png", json_=True)
        assert [(row["model"], row["version"]) for row in new["saw"]] == [("ct-mri", "2"), ("ct-mri", "3")]

    def test_retired_versions_and_those_of_deleted_runs_answer_too(self, models, store):
        made = registered(store, "kept", 6, 0.5, WHO["1"])
        models("retire", "models:/kept/1", "--reason", "consent", "--no-champion", "--yes")
        with connected(store.uri) as client:
            client.delete_run(made.run_id)
        _, found = models("lineage", "--subject", "2", "--model-name", "kept", json_=True)
        (row,) = found["saw"]
        assert row["retired"] and row["aliases"] == [] and row["pairs"]["train"] == ["2001", "2002"]
        assert "retired" in models("lineage", "--subject", "2", "--model-name", "kept").stdout
        with connected(store.uri) as client:
            client.delete_registered_model("kept")

    def test_forth_it_tells_data_code_configuration_parents_and_runs(self, models, store, monkeypatch):
        monkeypatch.setenv("ATLAS_FUSION_IMAGE", "registry/image@sha256:abc")
        monkeypatch.setenv("FUSION_PIPELINE_RUN", "2026-11-23")
        monkeypatch.setattr(steps, "ORIGIN", Origin.here("quick", "c0ffee", "0.1.0", "placeholder"))
        made = registered(store, "traced", 7, 0.5, WHO["1"], steps=20)
        _, facts = models("lineage", "models:/traced@champion", json_=True)
        assert facts["code"] == {"git_commit": "c0ffee", "code_version": "0.1.0", "image": "registry/image@sha256:abc"}
        assert (facts["pipeline_run"], facts["mlflow_run"]) == ("2026-11-23", made.run_id)
        assert facts["data"]["dataset_version"] == FIRST and facts["data"]["source"] == "phantom"
        assert facts["data"]["pairs"] == {"train": 4, "validation": 1, "test": 1}
        assert facts["configuration"]["steps"] == "20" and facts["seed"] == "7"
        assert facts["measures"]["vif"] == 0.5 and facts["parents"] == []
        said = models("lineage", "models:/traced/1").stdout
        assert "image      registry/image@sha256:abc" in said and re.search(r"train +4 +1, 2\b", said)
        with connected(store.uri) as client:
            client.delete_registered_model("traced")

    def test_parents_are_the_champions_that_each_came_after(self, models):
        chains = {n: models("lineage", n, "--model-name", "ct-mri", json_=True)[1]["parents"] for n in "124"}
        assert chains == {"1": [], "2": ["1"], "4": ["3", "2", "1"]}
        _, by_hand = models("lineage", "models:/by-hand/1", json_=True)
        assert by_hand["parents"] is None and by_hand["data"]["unknown"] == "it has no run"

    def test_a_folder_of_files_that_is_away_is_not_taken_for_a_model_registered_by_hand(self, models, store):
        artifacts = store.runs / "artifacts"
        artifacts.rename(store.runs / "elsewhere")
        try:
            code, found = models("lineage", "--subject", "1", "--model-name", "ct-mri", json_=True)
        finally:
            (store.runs / "elsewhere").rename(artifacts)
        assert code == 1 and not found["saw"] and not found["did_not"]
        assert {row["why"].partition(",")[0] for row in found["unknown"]} == {f"there is no folder {artifacts}"}

    def test_files_that_are_there_and_cannot_be_read_are_no_answer(self, models, store, refused, monkeypatch):
        made = registered(store, "shut", 8, 0.5, WHO["1"])
        (place,) = (store.runs / "artifacts").rglob(f"{made.run_id}/artifacts/split.json")
        place.unlink()
        place.mkdir()
        assert "cannot read split.json of models:/shut/1" in refused("models", "lineage", "--subject", "1")
        with connected(store.uri) as client:
            client.delete_registered_model("shut")


class TestReading:
    def test_a_model_of_someone_else_with_a_quote_in_its_name_is_in_nobodys_way(self, store):
        with connected(store.uri) as client:
            client.create_registered_model("O'Brien's net")
            try:
                client.create_model_version("O'Brien's net", source="elsewhere")
                assert choose(client, "models:/O'Brien's net/1").number == "1"
            finally:
                client.delete_registered_model("O'Brien's net")

    def test_the_list_shows_every_model_and_fits_eighty_columns(self, models):
        said = models("list").stdout
        assert "ct-mri: 4 versions" in said and "by-hand: 2 versions" in said
        assert re.search(
            r"^3 +champion +promoted +0\.700 +- +0\.700 +CT-MRI 1{8} +\d{4}-\d\d-\d\d$", said, re.MULTILINE
        )
        assert max(map(len, said.splitlines())) <= 80
        _, found = models("list", "ct-mri", json_=True)
        assert [row["version"] for row in found["ct-mri"]] == ["1", "2", "3", "4"] and len(found) == 1
        assert found["ct-mri"][3]["aliases"] == ["challenger"] and found["ct-mri"][3]["gate"] == "refused"

    @pytest.mark.parametrize("name", ["3", "03", "champion", "models:/ct-mri/3", "models:/ct-mri@champion"])
    def test_a_version_goes_by_number_alias_and_address(self, models, name):
        code, facts = models("show", name, "--model-name", "ct-mri", json_=True)
        assert code == 0 and (facts["model"], facts["version"]) == ("ct-mri", "3")

    def test_one_version_tells_the_gate_s_word_and_its_history(self, models):
        said = models("show", "models:/ct-mri/2").stdout
        assert "ct-mri version 2 (previous)" in said and "gate       promoted: vif 0.6000 beats" in said
        assert re.search(r"2 promoted over 1 +gate", said) and re.search(r"3 promoted over 2 +gate", said)

    def test_a_diff_names_pairs_by_subject_settings_and_measures(self, models):
        _, found = models("diff", "1", "2", "--model-name", "ct-mri", json_=True)
        rows = {row.pop("subject"): row for row in found["data"]["pairs"]}
        assert rows == {
            "1": {"added": [], "removed": [], "changed": ["1001"], "moved": []},
            "2": {"added": [], "removed": ["2002"], "changed": [], "moved": []},
            "4": {"added": ["4001"], "removed": [], "changed": [], "moved": []},
        }
        assert found["data"]["changed"] == {"dataset_version": [FIRST, SECOND]} and not found["same_test_images"]
        _, found = models("diff", "2", "3", "--model-name", "ct-mri", json_=True)
        moved = [row["moved"] for row in found["data"]["pairs"]]
        assert [{"name": "2001", "from": "train", "to": "validation"}] in moved and len(moved) == 2
        assert found["configuration"] == {"learning_rate": [None, "0.5"], "seed": ["2", "3"]} and found["code"] == {}
        assert found["measures"]["vif"] == {"a": 0.6, "b": 0.7, "difference": pytest.approx(0.1)}
        said = models("diff", "1", "2", "--model-name", "ct-mri").stdout
        assert re.search(r"^4 +1: 4001", said, re.MULTILINE) and "measured on other test images" in said

    def test_a_diff_with_an_unknown_split_says_so(self, models):
        _, found = models("diff", "models:/ct-mri/1", "models:/by-hand/2", json_=True)
        assert found["data"]["pairs"] is None and "version 2: its run has no split.json" in found["data"]["unknown"]
        assert "pairs: not known" in models("diff", "models:/ct-mri/1", "models:/by-hand/2").stdout

    def test_the_card_tells_subjects_measures_gate_and_limits(self, models, tmp_path):
        text = models("card", "models:/ct-mri/3").stdout
        assert text.startswith("# Model card: ct-mri version 3\n")
        assert "**Not a medical device.** It was trained on 3 subjects" in text and "artificial heads" in text
        assert "| train | 1 | 2 |" in text and "| network-sfnn (this model) | 0.7 | 0.7 |" in text
        assert "| vif above average | 0.7 | 0.4 | 8 |" in text and "| Champion when it was registered | 2 |" in text
        assert "wrote card.html" in models("card", "models:/ct-mri/3", "-o", "card.html").stdout
        page = (tmp_path / "card.html").read_text()
        assert "<svg" in page and "Not a medical device." in page and "**" not in page
        assert not re.search(r"""(src|href)=["'](?!data:)""", page)

    def test_the_card_of_a_model_trained_elsewhere_does_not_count_its_subjects(self, models):
        text = models("card", "models:/ct-mri/4").stdout
        assert "trained on subjects that were not recorded" in text and "trained on another dataset version" in text
        assert "| train | 1 |" not in text


class TestChampion:
    def test_rollback_goes_back_step_by_step_and_previous_names_the_next(self, heirs, models, refused):
        seen = []
        for _ in range(2):
            done = models("rollback", "--model-name", heirs.name, "--yes", "--reason", "it blurs")
            assert done.returncode == 0, done
            seen.append(standing(heirs.client, heirs.name))
        assert seen == [{"champion": "2", "previous": "1"}, {"champion": "1"}]
        line = refused("models", "rollback", "--model-name", heirs.name, "--yes")
        assert f"no champion of {heirs.name} came before version 1" in line
        assert standing(heirs.client, heirs.name) == {"champion": "1"}
        _, facts = models("show", "1", "--model-name", heirs.name, json_=True)
        last = facts["history"][-1]
        assert (last["action"], last["over"], last["reason"], last["by"]) == (
            "rolled back",
            "2",
            "it blurs",
            operations.user(),
        )

    def test_after_a_rollback_a_new_champion_leads_back_past_the_bad_one(self, heirs, models):
        models("rollback", "--model-name", heirs.name, "--yes")
        models("promote", "4", "--model-name", heirs.name, "--reason", "new", "--yes")
        assert standing(heirs.client, heirs.name) == {"champion": "4", "previous": "2"}
        models("promote", "3", "--model-name", heirs.name, "--reason", "mended", "--yes")
        order = []
        for _ in range(3):
            models("rollback", "--model-name", heirs.name, "--yes")
            order.append(standing(heirs.client, heirs.name)["champion"])
        assert order == ["4", "2", "1"]

    def test_rollback_passes_over_the_retired(self, heirs, models):
        assert models("retire", "2", "--model-name", heirs.name, "--reason", "consent", "--yes").returncode == 0
        assert standing(heirs.client, heirs.name) == {"champion": "3", "previous": "1"}
        models("rollback", "--model-name", heirs.name, "--yes")
        assert standing(heirs.client, heirs.name) == {"champion": "1"}

    def test_what_another_did_while_the_user_was_asked_counts(self, heirs):
        client, name = heirs.client, heirs.name
        two, four = (choose(client, number, name) for number in ("2", "4"))
        promote(client, name, "4")
        with pytest.raises(InputError, match="version 4 is the champion"):
            operations.retire(client, four, without_champion=False, reason="r", by="bob")
        assert not choose(client, "4", name).retired
        operations.retire(client, two, without_champion=False, reason="consent", by="ann")
        with pytest.raises(InputError, match=r"version 2 of .* is retired"):
            operations.promote(client, two, over="4", reason="x", by="bob")
        with pytest.raises(InputError, match=r"version 2 of .* is retired"):
            operations.rollback(client, name, over="4", to="2", reason="x", by="bob")
        assert standing(client, name)["champion"] == "4"

    def test_retiring_takes_aliases_keeps_lineage_and_bars_promotion(self, heirs, models, refused):
        heirs.client.set_registered_model_alias(heirs.name, "challenger", "4")
        assert (
            "no longer challenger" in models("retire", "4", "--model-name", heirs.name, "--reason", "r", "--yes").stdout
        )
        assert "challenger" not in standing(heirs.client, heirs.name)
        tags = heirs.client.get_model_version(heirs.name, "4").tags
        assert tags["retired_reason"] == "r" and tags["retired_by"] == operations.user() and tags["retired_at"]
        line = refused("models", "promote", "4", "--model-name", heirs.name, "--reason", "x", "--yes")
        assert "is retired (r)" in line and f"retire models:/{heirs.name}/4 --undo --reason ...`" in line
        assert "retired already" in refused(
            "models", "retire", "4", "--model-name", heirs.name, "--reason", "r", "--yes"
        )
        models("retire", "4", "--model-name", heirs.name, "--reason", "cleared", "--undo", "--yes")
        assert models("promote", "4", "--model-name", heirs.name, "--reason", "x", "--yes").returncode == 0
        assert "not retired" in refused("models", "retire", "4", "--model-name", heirs.name, "--reason", "r", "--undo")

    def test_the_champion_retires_only_if_the_model_may_be_without_one(self, heirs, models, refused):
        line = refused("models", "retire", "champion", "--model-name", heirs.name, "--reason", "r", "--yes")
        assert "fusion models rollback" in line and "--no-champion" in line
        assert standing(heirs.client, heirs.name) == {"champion": "3", "previous": "2"}
        models("retire", "champion", "--model-name", heirs.name, "--reason", "r", "--no-champion", "--yes")
        assert standing(heirs.client, heirs.name) == {"previous": "2"}
        models("rollback", "--model-name", heirs.name, "--yes")
        assert standing(heirs.client, heirs.name) == {"champion": "2", "previous": "1"}

    def test_who_was_overtaken_changes_nothing(self, heirs):
        before = history.events(heirs.client, heirs.name)
        with pytest.raises(Overtaken):
            operations.rollback(heirs.client, heirs.name, over="2", to="1", reason="late", by="bob")
        assert standing(heirs.client, heirs.name) == {"champion": "3", "previous": "2"}
        assert history.events(heirs.client, heirs.name) == before

    def test_promoting_the_champion_is_no_change(self, heirs, models):
        before = history.events(heirs.client, heirs.name)
        assert "champion already" in models("promote", "3", "--model-name", heirs.name, "--reason", "x", "--yes").stdout
        assert history.events(heirs.client, heirs.name) == before

    def test_champions_from_before_there_was_a_log_count(self, store, models):
        with connected(store.uri) as client:
            client.create_registered_model("older")
            for word in ("promoted", "refused", "promoted", "promoted"):
                client.create_model_version("older", source="elsewhere", tags={"gate": word})
            client.set_registered_model_alias("older", "champion", "4")
            client.set_registered_model_alias("older", "previous", "3")
            for expected in ({"champion": "3", "previous": "1"}, {"champion": "1"}):
                models("rollback", "--model-name", "older", "--yes")
                assert standing(client, "older") == expected
            client.delete_registered_model("older")

    def test_a_champion_set_in_mlflow_s_page_is_gone_back_from_too(self, heirs, models):
        heirs.client.set_registered_model_alias(heirs.name, "champion", "4")
        models("rollback", "--model-name", heirs.name, "--yes")
        assert standing(heirs.client, heirs.name)["champion"] == "3"

    def test_nobody_there_to_be_asked_changes_nothing(self, heirs, models, refused):
        for command in (("promote", "1", "--reason", "x"), ("rollback",), ("retire", "2", "--reason", "x")):
            assert "--yes" in refused("models", *command, "--model-name", heirs.name)
        assert "the reason is empty" in refused(
            "models", "promote", "1", "--model-name", heirs.name, "--reason", " ", "--yes"
        )
        assert standing(heirs.client, heirs.name) == {"champion": "3", "previous": "2"}

    def test_a_log_with_a_gap_still_leads_back(self):
        log = [Event(PROMOTED, "5", "4", "", "gate", ""), Event("rolled back", "4", "5", "", "ann", "")]
        assert champions(log, ["1", "2"], "4") == ["1", "2", "4"]
        assert champions([], [], None) == []


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("show", "9", "--model-name", "ct-mri"), "no version 9 of ct-mri; it has 1, 2, 3, 4"),
            (
                ("show", "best", "--model-name", "ct-mri"),
                "no alias best of ct-mri; it has challenger, champion, previous",
            ),
            (("show", "1"), "no model ct-mri-fusion-quick in the registry; it has by-hand, ct-mri, pet-mri; name"),
            (("list", "nobody"), "no model nobody in the registry; it has by-hand, ct-mri, pet-mri\n"),
            (("show", "models:/nobody/1"), "no model nobody in the registry; it has by-hand, ct-mri, pet-mri\n"),
            (("rollback", "--model-name", "nobody", "--yes"), "it has by-hand, ct-mri, pet-mri; name one by --model"),
            (("show", "models:/ct-mri"), "names no version"),
            (("show", "models:/ct-mri/champion"), "names no version"),
            (("diff", "models:/ct-mri/1", "a b"), "'a b' names no version"),
            (("lineage",), "--image and --subject"),
            (("lineage", "--image", "1", "--subject", "1"), "one of --image and --subject"),
            (("lineage", "3", "--subject", "1"), "not both"),
            (("lineage", "--subject", "1", "--collection", "CT"), "unknown collection 'CT'"),
            (("lineage", "--image", "absent/1001.png"), "no file absent/1001.png"),
            (("lineage", "--subject", "1", "--model-name", "nobody"), "no model nobody"),
            (("card", "models:/ct-mri/1", "-o", "card.pdf"), "end card.pdf in .md or .html"),
            (("card", "models:/by-hand/1"), "no card of models:/by-hand/1: it has no run"),
        ],
    )
    def test_it_is_one_line(self, models, refused, arguments, message):
        assert message in refused("models", *arguments)

    def test_without_a_registry(self, refused, tmp_path):
        assert "no local MLflow store in runs; set MLFLOW_TRACKING_URI" in refused("models", "list")
        assert not (tmp_path / "runs").exists()

    def test_a_mistyped_database_is_not_made(self, refused, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/typo/mlflow.db")
        assert f"no MLflow store at {tmp_path}/typo/mlflow.db; mend MLFLOW_TRACKING_URI" in refused("models", "list")
        assert not (tmp_path / "typo").exists()

    def test_an_unreachable_server_and_one_that_refuses(self, refused, fusion, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
        line = refused("models", "list")
        assert "does not answer" in line and "secret" not in line
        for status in (401, 403):
            with bad_server(str(status), healthy=True) as address:
                monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
                assert f"refuses ({status})" in refused("models", "lineage", "--subject", "1")


class TestWebhook:
    @pytest.fixture
    def hook(self, monkeypatch):
        """A real HTTP server at a secret address, which answers with the statuses asked for, then 200."""
        made = SimpleNamespace(statuses=[], posts=[])

        class Handler(Quiet):
            def do_POST(self):  # noqa: N802
                content = self.rfile.read(int(self.headers["Content-Length"]))
                made.posts.append((self.path, json.loads(content)))
                self.send_response(made.statuses.pop(0) if made.statuses else 200)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

        with serving(Handler) as address:
            monkeypatch.setenv("ATLAS_FUSION_WEBHOOK", f"http://{address}/T0/s3cret")
            monkeypatch.setattr(webhook, "SECONDS_BETWEEN", 0.0)
            yield made

    def test_it_hears_who_is_champion_in_words_and_in_fields(self, heirs, models, hook):
        models("promote", "4", "--model-name", heirs.name, "--reason", "<!channel> a & b", "--yes")
        ((path, said),) = hook.posts
        assert path == "/T0/s3cret"
        assert said["text"].startswith(
            f"{heirs.name} version 4 is champion, in place of version 3: &lt;!channel&gt; a &amp; b"
        )
        fields = {"event": "promoted", "model": heirs.name, "version": "4", "previous_champion": "3"}
        assert fields.items() <= said.items() and said["by"] == operations.user() and said["at"]
        models("rollback", "--model-name", heirs.name, "--yes")
        assert (hook.posts[1][1]["event"], hook.posts[1][1]["version"]) == ("rolled_back", "3")

    def test_it_hears_the_gate_with_the_measures_and_nothing_of_a_refusal(self, store, hook):
        registered(store, "announced", 9, 0.5, WHO["1"])
        registered(store, "announced", 10, 0.45, WHO["1"], champion=("1", 0.5))
        ((_, said),) = hook.posts
        assert (said["by"], said["version"], said["measures"]["vif"]) == ("gate", "1", 0.5)
        assert said["uri"] == "models:/announced/1" and said["previous_champion"] is None
        with connected(store.uri) as client:
            client.delete_registered_model("announced")

    @pytest.mark.parametrize(
        ("statuses", "posts", "line"),
        [
            ([500, 429], 3, ""),
            ([503, 503, 503], 3, "HTTP 503, 3 attempts"),
            ([404], 1, "HTTP 404"),
            ([302], 1, "HTTP 302"),
        ],
    )
    def test_a_failing_one_is_tried_again_told_in_a_line_and_stops_nothing(
        self, heirs, models, hook, statuses, posts, line
    ):
        hook.statuses += statuses
        done = models("promote", "4", "--model-name", heirs.name, "--reason", "x", "--yes")
        assert done.returncode == 0 and standing(heirs.client, heirs.name)["champion"] == "4"
        assert len(hook.posts) == posts
        assert done.stderr.count("\n") == bool(line) and line in done.stderr
        assert "s3cret" not in done.stderr + done.stdout and "127.0.0.1" not in done.stderr

    @pytest.mark.parametrize("url", ["http://127.0.0.1:{}/s3cret", "s3cret", "http://[s3cret", "https://s3cret@:x/"])
    def test_an_address_that_cannot_be_reached_is_not_told(self, heirs, models, monkeypatch, url):
        monkeypatch.setenv("ATLAS_FUSION_WEBHOOK", url.format(free_port()))
        monkeypatch.setattr(webhook, "SECONDS_BETWEEN", 0.0)
        done = models("promote", "4", "--model-name", heirs.name, "--reason", "x", "--yes")
        assert done.returncode == 0 and done.stderr.count("\n") == 1
        assert "webhook not told" in done.stderr and "s3cret" not in done.stderr
