"""The gate: what a candidate must beat, by which test, and which floors it must not fall below."""

import json
import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.register import gate
from components.register.gate import Rules
from model.errors import InputError
from model.methods import CLASSICAL
from tests.registered import FLOORS, PAIRS, make_table


def judge(
    table: dict[str, Any], champion: str | None = None, rules: Rules | None = None, **floors: Any
) -> gate.Verdict:
    return gate.judge(table, FLOORS | floors, rules or Rules(), champion, ["1", "2"])


def with_pairs(values: dict[str, list[float]], measure: str = "vif") -> dict[str, Any]:
    """The evaluation, had the methods named these values of the measure on its pairs."""
    table = make_table(pairs=tuple(f"9{number:03}" for number in range(len(next(iter(values.values()))))))
    for row in table["methods"]:
        if row["name"] in values:
            row["per_pair"][measure] = values[row["name"]]
            row["means"][measure] = float(np.mean(values[row["name"]]))
    return table


def check(verdict: gate.Verdict, name: str) -> dict[str, Any]:
    (found,) = [check for check in verdict.checks if check["name"] == name]
    return found


class TestBaselines:
    def test_who_beats_all_of_them_is_promoted_and_told_by_how_much(self):
        verdict = judge(make_table(0.5))
        assert verdict.promoted and verdict.over == ""
        assert verdict.reason.startswith("vif 0.5000 beats average 0.4000, maximum 0.4000, ")
        assert "guided-filter 0.4000 on 8 pairs (p <= 0.0039)" in verdict.reason
        assert check(verdict, "vif above dwt") == {
            "name": "vif above dwt",
            "candidate": 0.5,
            "other": 0.4,
            "n": 8,
            "p": 1 / 2**8,
            "passed": True,
            "required": True,
        }

    @pytest.mark.parametrize("name", CLASSICAL)
    @pytest.mark.parametrize("value", [0.5, 0.6])
    def test_every_one_must_be_beaten(self, name: str, value: float):
        verdict = judge(make_table(0.5, **{name: value}))
        assert not verdict.promoted
        assert verdict.reason == f"vif 0.5000 is not above {name} ({value:.4f}, p 1)"

    def test_a_mean_above_is_not_enough_where_the_pairs_disagree(self):
        ours = [0.9, 0.3, 0.3, 0.3, 0.9, 0.5, 0.3, 0.3]
        verdict = judge(with_pairs({"network-sfnn": ours}))
        assert np.mean(ours) > 0.4
        assert not verdict.promoted and "p 0.63" in verdict.reason

    def test_a_significant_test_is_not_enough_where_the_mean_is_below(self):
        table = with_pairs({"network-sfnn": [0.41] * 19 + [-9.0]})
        assert not judge(table).promoted
        assert check(judge(table), "vif above dwt")["p"] < 0.05

    def test_the_margin_must_be_passed_on_the_pairs(self):
        assert judge(make_table(0.5), rules=Rules(margin=0.09)).promoted
        verdict = judge(make_table(0.5), rules=Rules(margin=0.1))
        assert not verdict.promoted and verdict.reason.endswith("by 0.1")

    def test_every_measure_named_counts_and_qabf_is_reported_only(self):
        table = with_pairs({"guided-filter": [0.9] * 8}, "qabf")
        assert judge(table).promoted
        told = check(judge(table), "qabf above guided-filter")
        assert not told["passed"] and not told["required"]
        verdict = judge(table, rules=Rules(("vif", "qabf")))
        assert not verdict.promoted
        assert verdict.reason == "qabf 0.5000 is not above guided-filter (0.9000, p 1)"

    def test_a_measure_of_which_less_is_better_is_read_so(self):
        table = make_table(0.3)
        table["measures"][0]["direction"] = "lower"
        assert judge(table).promoted and not judge(make_table(0.3)).promoted
        worse = make_table(0.5) | {"measures": table["measures"]}
        assert "vif 0.5000 is not below average (0.4000, p 1)" in judge(worse).reason

    @pytest.mark.parametrize("count", [1, 4])
    def test_too_few_pairs_are_a_reason_in_words(self, count: int):
        verdict = judge(make_table(0.9, PAIRS[:count]))
        assert not verdict.promoted
        assert verdict.reason == (
            f"{count} held-out pairs are too few: were every one better, p would not be below 0.05; hold out 5 or more"
        )
        assert judge(make_table(0.9, PAIRS[:5])).promoted

    def test_a_table_without_a_baseline_or_the_measure_refuses_the_model(self):
        table = make_table(0.5)
        table["methods"] = [row for row in table["methods"] if row["name"] not in ("dwt", "laplacian")]
        assert judge(table).reason == "vif of laplacian and dwt was not measured on these pairs; evaluate again"
        for row in table["methods"]:
            del row["means"]["vif"], row["per_pair"]["vif"]
        assert not judge(table).promoted

    def test_a_table_without_its_candidate_is_an_error(self):
        with pytest.raises(InputError, match="network-fer"):
            judge(make_table() | {"candidate": "network-fer"})


class TestChampion:
    @pytest.mark.parametrize(("value", "promoted"), [(0.49, True), (0.5, False), (0.51, False)])
    def test_it_must_be_beaten_on_the_same_pairs(self, value: float, promoted: bool):
        verdict = judge(make_table(0.5, champion=("7", value)), "7")
        assert (verdict.promoted, verdict.over) == (promoted, "7")
        assert ("champion 0.4900" if promoted else "the champion (version 7)") in verdict.reason

    @pytest.mark.parametrize("table", [make_table(0.9), make_table(0.9, champion=("6", 0.1))])
    def test_one_that_was_not_measured_is_not_beaten(self, table: dict[str, Any]):
        verdict = judge(table, "7")
        assert not verdict.promoted
        assert verdict.reason.startswith("the champion (version 7) could not be measured on these pairs (")
        assert "`fusion models promote`" in verdict.reason

    def test_one_that_is_champion_no_more_is_no_obstacle(self):
        assert judge(make_table(0.5, champion=("7", 0.9))).promoted

    def test_its_row_makes_no_other_evaluation(self):
        assert gate.without_champion(make_table(champion=("7", 0.9))) == gate.without_champion(make_table())
        old = {key: value for key, value in make_table().items() if key != "champion"}
        assert gate.without_champion(old) == old


class TestFloors:
    @pytest.mark.parametrize(
        ("lesions", "said"), [({"CT": 0.49, "MRI": 0.8}, "0.49"), ({"CT": 0.9, "MRI": None}, "nan")]
    )
    def test_lesions_that_are_lost_refuse_the_model(self, lesions: dict[str, Any], said: str):
        verdict = judge(make_table(0.5), lesions=lesions)
        assert not verdict.promoted and f"keeps {said} of the contrast of lesions" in verdict.reason
        assert judge(make_table(0.5), lesions={"CT": 0.49, "MRI": 0.5}, rules=Rules(lesions=0.49)).promoted

    def test_a_collection_that_the_phantom_does_not_have_has_no_such_floor(self):
        assert judge(make_table(0.5), lesions=None).promoted

    def test_a_slow_model_is_refused(self):
        verdict = judge(make_table(0.5), seconds=4.5)
        assert verdict.reason == "it takes 4.5 s for a pair of 256x256, 4 s are allowed"
        assert judge(make_table(0.5), seconds=4.5, rules=Rules(seconds=5)).promoted

    def test_an_evaluation_from_before_is_to_be_made_again(self):
        verdict = gate.judge(make_table(0.5), None, Rules(), None)
        assert not verdict.promoted and verdict.reason.endswith("evaluate again")

    @pytest.mark.parametrize("broken", [math.nan, math.inf, None])
    @pytest.mark.parametrize("where", ["means", "per_pair"])
    @pytest.mark.parametrize("measure", ["psnr", "vif"])
    def test_a_value_that_is_no_number_refuses_the_model(self, broken: float | None, where: str, measure: str):
        table = make_table(0.5)
        table["methods"][0][where][measure] = broken if where == "means" else [0.5] * 7 + [broken]
        verdict = judge(table)
        assert not verdict.promoted and measure in verdict.reason and "\n" not in verdict.reason
        json.dumps(verdict.checks, allow_nan=False)

    def test_subjects_seen_in_training_refuse_the_model(self):
        verdict = gate.judge(make_table(0.5), FLOORS, Rules(), None, trained_on=["1", "9"])
        assert not verdict.promoted and "subjects 9" in verdict.reason


def test_the_order_of_the_pairs_does_not_make_other_images():
    forwards, backwards = make_table(pairs=("1", "2")), make_table(pairs=("2", "1"))
    assert gate.image_set(forwards) == gate.image_set(backwards)
    assert gate.image_set(forwards) != gate.image_set(forwards | {"dataset_version": "other"})


@pytest.mark.parametrize(
    ("measures", "margin", "lesions", "seconds", "said"),
    [
        ("vif,beauty", 0.0, 0.5, 2.0, "unknown measure of the gate 'beauty'; choose one of .*vif"),
        (" , ", 0.0, 0.5, 2.0, "no measure of the gate given"),
        ("vif", -0.1, 0.5, 2.0, "gate_margin is -0.1"),
        ("vif", math.nan, 0.5, 2.0, "gate_margin is nan"),
        ("vif", 0.0, 1.5, 2.0, "gate_lesions is 1.5"),
        ("vif", 0.0, 0.5, 0.0, "gate_seconds is 0"),
    ],
)
def test_rules_that_make_no_sense_are_refused(measures: str, margin: float, lesions: float, seconds: float, said: str):
    with pytest.raises(InputError, match=said):
        Rules.parse(measures, margin, lesions, seconds)


def test_rules_are_read_in_order():
    assert Rules.parse(" vif, fsim,vif,", 0.0, 0.5, 2.0).measures == ("vif", "fsim")
    assert Rules.parse("vif", 0.0, 0.5, 4.0) == Rules()


def test_checks_of_older_versions_are_shown_too():
    old = {"name": "qabf above average", "candidate": 0.5, "other": 0.4, "passed": True, "required": True}
    assert gate.markdown([old])[2] == "| qabf above average | 0.5 | 0.4 | - | - | yes |"


VALUES = st.floats(0, 1).map(lambda value: round(value, 2))


@st.composite
def evaluations(draw: st.DrawFn, rivals: tuple[str, ...] = ("maximum", "champion")) -> dict[str, list[float]]:
    count = draw(st.integers(1, 12))
    names = ("network-sfnn", *rivals)
    return {name: draw(st.lists(VALUES, min_size=count, max_size=count)) for name in names}


def verdict_of(values: dict[str, list[float]], margin: float = 0.0) -> gate.Verdict:
    table = with_pairs(values)
    table["methods"].append(deepcopy(table["methods"][0]) | {"name": "champion"})
    table = with_rows(table, values) | {"champion": "7"}
    return judge(table, "7", Rules(margin=margin))


def with_rows(table: dict[str, Any], values: dict[str, list[float]]) -> dict[str, Any]:
    for row in table["methods"]:
        if row["name"] in values:
            row["per_pair"]["vif"], row["means"]["vif"] = values[row["name"]], float(np.mean(values[row["name"]]))
        else:
            count = len(values["network-sfnn"])
            row["per_pair"]["vif"], row["means"]["vif"] = [-1.0] * count, -1.0
    return table


@given(evaluations(), st.data(), st.sampled_from([0.0, 0.05]))
def test_a_better_candidate_is_never_refused_where_a_worse_one_was_promoted(values, data, margin):
    count = len(values["network-sfnn"])
    gains = data.draw(st.lists(VALUES, min_size=count, max_size=count))
    better = values | {"network-sfnn": [a + gain for a, gain in zip(values["network-sfnn"], gains, strict=True)]}
    assert verdict_of(better, margin).promoted >= verdict_of(values, margin).promoted


@given(evaluations(), st.data())
def test_a_stronger_champion_or_baseline_never_helps(values, data):
    name = data.draw(st.sampled_from(["maximum", "champion"]))
    stronger = values | {name: [value + 0.1 for value in values[name]]}
    assert verdict_of(stronger).promoted <= verdict_of(values).promoted


@given(evaluations(), st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_decides_nothing(values, random):
    order = list(range(len(values["network-sfnn"])))
    random.shuffle(order)
    shuffled = {name: [each[position] for position in order] for name, each in values.items()}
    first, second = verdict_of(values), verdict_of(shuffled)
    assert first.promoted == second.promoted
    assert [entry.get("p") for entry in first.checks] == [entry.get("p") for entry in second.checks]


@given(evaluations(), st.data())
def test_a_nan_anywhere_refuses(values, data):
    name = data.draw(st.sampled_from(["network-sfnn", "maximum", "champion"]))
    position = data.draw(st.integers(0, len(values[name]) - 1))
    broken = values | {name: [*values[name][:position], math.nan, *values[name][position + 1 :]]}
    assert not verdict_of(broken).promoted
