"""The gate's rules: which model is promoted, and what is said of it."""

import json
import math
from typing import Any

import pytest

from components.register import gate
from model.errors import InputError
from tests.registered import make_table


def champion(qabf: float, table: dict[str, Any]) -> dict[str, str]:
    return {"version": "7", "qabf": str(qabf), "test_set": gate.image_set(table)}


def test_a_first_model_above_the_average_is_promoted() -> None:
    verdict = gate.judge(make_table(0.5), None)
    assert verdict.promoted
    assert "0.5000" in verdict.reason and "0.4000" in verdict.reason


@pytest.mark.parametrize("qabf", [0.4, 0.3])
def test_a_model_must_be_strictly_above_the_average(qabf: float) -> None:
    verdict = gate.judge(make_table(qabf), None)
    assert not verdict.promoted
    assert "average" in verdict.reason and "\n" not in verdict.reason


def test_the_maximum_is_information_and_does_not_decide() -> None:
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
def test_a_champion_on_the_same_images_must_be_reached(recorded: float, promoted: bool) -> None:
    table = make_table(0.5)
    verdict = gate.judge(table, champion(recorded, table))
    assert verdict.promoted is promoted
    assert "version 7" in verdict.reason


def test_a_champion_on_other_images_needs_a_hand() -> None:
    verdict = gate.judge(make_table(0.9), champion(0.1, make_table(pairs=("9001", "9003"))))
    assert not verdict.promoted
    assert "other images" in verdict.reason and "alias `champion`" in verdict.reason


def test_the_order_of_the_pairs_does_not_make_other_images() -> None:
    forwards, backwards = make_table(pairs=("1", "2")), make_table(pairs=("2", "1"))
    assert gate.image_set(forwards) == gate.image_set(backwards)
    assert gate.image_set(forwards) != gate.image_set(forwards | {"dataset_version": "other"})


@pytest.mark.parametrize("broken", [math.nan, math.inf, None])
@pytest.mark.parametrize("where", ["means", "per_pair"])
def test_a_value_that_is_no_number_refuses_the_model(broken: float | None, where: str) -> None:
    table = make_table(0.5)
    table["methods"][0][where]["psnr"] = broken if where == "means" else [20.0, broken]
    verdict = gate.judge(table, None)
    assert not verdict.promoted
    assert "psnr" in verdict.reason


def test_a_broken_headline_is_reported_as_valid_json() -> None:
    verdict = gate.judge(make_table(math.nan), None)
    assert not verdict.promoted
    json.dumps(verdict.checks, allow_nan=False)


def test_subjects_seen_in_training_refuse_the_model() -> None:
    assert gate.judge(make_table(0.5), None, trained_on=["1", "2"]).promoted
    verdict = gate.judge(make_table(0.5), None, trained_on=["1", "9"])
    assert not verdict.promoted
    assert "subjects 9" in verdict.reason


def test_a_table_without_the_average_or_the_measure_refuses_the_model() -> None:
    table = make_table(0.5)
    table["methods"] = table["methods"][:1]
    assert "average" in gate.judge(table, None).reason
    del table["methods"][0]["means"]["qabf"]
    assert "qabf" in gate.judge(table, None).reason


def test_a_table_without_its_candidate_is_an_error() -> None:
    with pytest.raises(InputError, match="network-fer"):
        gate.judge(make_table() | {"candidate": "network-fer"}, None)
