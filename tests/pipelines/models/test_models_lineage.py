"""`fusion models lineage` against a real registry: from a version to its origin, and from an image to who saw it."""

import re

from components.register.record import Origin
from components.tracking import connected
from tests import registered as steps
from tests.versions import FIRST, SECOND, WHO, md5, registered


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
