"""`fusion methods`: every method with its source, and the truth about the weights that ship."""

import json

import pytest

from model import methods
from model.fuser import Fuser
from model.methods import CLASSICAL, METHODS
from model.network import FusionNetwork


@pytest.fixture(autouse=True)
def shipped(monkeypatch, tmp_path):
    """The shipped weights are one network, trained on the paper's split."""
    monkeypatch.setattr(methods, "SHIPPED", tmp_path / "weights")
    Fuser(FusionNetwork()).save(tmp_path / "weights" / "dilran-paper")


def test_programs_are_told_of_every_method_and_its_weights(fusion):
    told = {entry["name"]: entry for entry in json.loads(fusion("methods", "--json").stdout)}
    assert list(told) == list(METHODS)
    assert told["dilran-fer"]["weights"]["paper"] == {"shipped": True, "reason": ""}
    absent = told["dilran-fer"]["weights"]["subject"]
    assert absent["shipped"] is False
    assert absent["reason"].startswith("no trained weights shipped for dilran on the subject split; train them by")
    for name, entry in told.items():
        assert (entry["title"], entry["citation"]) == (METHODS[name].title, METHODS[name].citation)
        for standing in entry["weights"].values():
            assert (standing["shipped"] is None) == (name in CLASSICAL)
            assert bool(standing["reason"]) == (standing["shipped"] is False)
    assert "model zoo" in told["zero-learning"]["weights"]["paper"]["reason"]


def test_people_read_it_at_80_columns(fusion, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = fusion("methods").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line.split() for line in lines if line.strip() and line.split()[0] in METHODS}
    assert list(rows) == list(METHODS), "a row is missing or broken over two lines"
    assert rows["dilran-sfnn"][-3:] == ["no", "yes", "1"]
    assert rows["maximum"][-3:-1] == ["-", "-"]
    text = " ".join(" ".join(lines).split())
    for method in METHODS.values():
        assert all(word in text for word in method.title.split())
        assert method.citation.rpartition(", ")[0][-20:] in text.replace("- ", "-")
    assert (
        "no trained weights shipped for msdra on the paper split; train them by `fusion weights train msdra-paper"
        in text
    )


def test_damaged_weights_do_not_pass_for_shipped(fusion, tmp_path):
    (tmp_path / "weights" / "dilran-paper" / "weights.safetensors").write_text("no weights")
    (first, *_) = json.loads(fusion("methods", "--json").stdout)
    assert first["weights"]["paper"]["shipped"] is False
    assert "damaged" in first["weights"]["paper"]["reason"]
