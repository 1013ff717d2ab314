"""`fusion models` list, show, diff and card against a real registry, and what all of them say to bad input."""

import re

import pytest

from components.register.catalogue import choose
from components.tracking import connected
from tests.mlflow_servers import bad_server, free_port
from tests.versions import FIRST, SECOND


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

    def test_a_model_without_a_champion_is_told_how_to_get_one(self, refused, models):
        line = refused("models", "show", "models:/by-hand@champion")
        assert "no alias champion of by-hand; it has none; `fusion models promote` makes" in line
        line = refused("models", "rollback", "--model-name", "by-hand", "--yes")
        assert "no champion of by-hand is there to go back to; make a version one by `fusion models promote`" in line

    def test_a_server_that_is_not_mlflow_and_a_setting_that_mlflow_cannot_read(self, refused, monkeypatch):
        with bad_server("404") as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
            assert f"http://{address} answers, but not as MLflow does (404)" in refused("models", "list")
            monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "yes")
            assert "MLFLOW_TRACKING_INSECURE_TLS value must be one of" in refused("models", "list")

    def test_an_unreachable_server_and_one_that_refuses(self, refused, fusion, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
        line = refused("models", "list")
        assert "does not answer" in line and "secret" not in line
        for status in (401, 403):
            with bad_server(str(status), healthy=True) as address:
                monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
                assert f"refuses ({status})" in refused("models", "lineage", "--subject", "1")
