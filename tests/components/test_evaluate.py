"""Evaluate measures every method on every held-out pair, tells the result as it is, and writes it whole."""

import csv
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kfp import compiler, dsl, local

from components.evaluate import floors
from components.evaluate.component import evaluate as component
from components.evaluate.curves import HEIGHT, WIDTH, draw_curve
from components.evaluate.evaluation import (
    REPORTED,
    Champion,
    evaluate,
    judge_champion,
    parse_strategies,
    read_training,
    write_evaluation,
)
from components.evaluate.pictures import choose
from components.evaluate.report import render_report
from components.ingest.phantom import PhantomConfig
from model.errors import InputError
from model.fuser import Fuser, FuserConfig
from model.images import join_bytes
from model.methods import CLASSICAL, METHODS, Resources
from model.metrics import measure
from model.network import FusionNetwork
from model.pairs import PackedPairs
from model.shards import write_shards
from model.strategies import DEFAULT_STRATEGY, STRATEGIES

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = {"table.json", "table.csv", "per_pair.csv", "floors.json", "report.html"}
LOSSES = {"total": 0.3, "l2": 0.1, "gradient": 0.5, "perceptual": 0.5}
CURVES = [{"epoch": epoch, "step": epoch, "train": LOSSES, "validation": LOSSES} for epoch in (1, 2)]
TRAINING = {"seed": 7, "epochs": 2, "perceptual": "random", "processes": 1, "libraries": {"torch": "2"}}


@pytest.fixture(scope="module", autouse=True)
def small_phantom():
    """One small head for the floors, to save time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floors, "HEADS", PhantomConfig(subjects=1, slices=4, size=64, seed=20))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    Fuser(FusionNetwork()).save(folder)
    (folder / "curves.json").write_text(json.dumps(CURVES))
    (folder / "training.json").write_text(json.dumps(TRAINING))
    return folder


@pytest.fixture(scope="module")
def evaluation(trained, packed):
    return evaluate(trained, packed, ["fer", "sfnn"], batch=1)


@pytest.fixture(scope="module")
def written(evaluation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "evaluation"
    write_evaluation(evaluation, CURVES, TRAINING, folder)
    return folder


def with_headline(evaluation, values):
    """The evaluation, had these methods reached these values of the headline measure on its two pairs."""
    methods = [
        replace(method, per_pair=method.per_pair | {"qabf": values.get(method.name, [0.0, 0.0])})
        for method in evaluation.methods
    ]
    return replace(evaluation, methods=methods)


def summary(evaluation, training=TRAINING):
    page = render_report(evaluation, CURVES, training)
    (text,) = re.findall(r'<p class="lead" id="summary">(.*?)</p>', page, re.DOTALL)
    return " ".join(re.sub(r"<.*?>", "", text).split())


@pytest.mark.parametrize("name", ["maximum", "network-sfnn"])
def test_the_table_holds_what_measuring_the_method_alone_gives(trained, packed, written, name):
    table = json.loads((written / "table.json").read_text())
    a, b = PackedPairs.open(packed, "test").batch(slice(None))
    functions = {"maximum": METHODS["maximum"].load(Resources()), "network-sfnn": Fuser.load(trained, "sfnn").fuse}
    (row,) = [row for row in table["methods"] if row["name"] == name]
    for key, measured in measure(a, b, functions[name](a, b), REPORTED).items():
        expected = (measured["mean"] if isinstance(measured, dict) else measured).tolist()
        assert row["per_pair"][key] == pytest.approx(expected, abs=2e-5)
        assert row["means"][key] == pytest.approx(sum(expected) / len(expected), abs=2e-5)


def test_the_table_names_everything_a_reader_needs(written, packed):
    table = json.loads((written / "table.json").read_text())
    assert table["candidate"] == "network-fer"
    assert [row["name"] for row in table["methods"]] == ["network-fer", "network-sfnn", *CLASSICAL]
    assert {row["kind"] for row in table["methods"][:2]} == {"network"}
    assert [column["name"] for column in table["measures"]] == list(REPORTED)
    assert (table["pairs"], table["subjects"], table["split"]) == (["5001", "5002"], ["5"], "test")
    assert table["dataset_version"] == json.loads((packed / "index.json").read_text())["dataset_version"]


def test_the_csv_files_say_the_same_as_the_json(written):
    table = json.loads((written / "table.json").read_text())
    with (written / "table.csv").open() as file:
        means = {row["method"]: row for row in csv.DictReader(file)}
    with (written / "per_pair.csv").open() as file:
        long = {(row["method"], row["measure"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    for row in table["methods"]:
        for key, mean in row["means"].items():
            assert float(means[row["name"]][key]) == mean
            for pair, value in zip(table["pairs"], row["per_pair"][key], strict=True):
                assert long.pop((row["name"], key, pair)) == value
    assert not long


def test_the_same_input_gives_the_same_bytes(trained, packed, written, tmp_path):
    again = evaluate(trained, packed, ["fer", "sfnn"], batch=1)
    write_evaluation(again, CURVES, TRAINING, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    for name in FILES - {"floors.json"}:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_the_champion_takes_part_with_its_own_weights_and_strategy(packed, trained):
    torch.manual_seed(1)
    champion = Champion("3", Fuser(FusionNetwork(), FuserConfig("maximum", levels=((0, 0.5), (0.1, 0.3)))))
    judged = evaluate(trained, packed, ["fer"], champion=champion, measures=["vif", "sf"])
    table = judged.to_dict()
    assert [row["name"] for row in table["methods"]] == ["network-fer", "champion", *CLASSICAL]
    assert table["champion"] == "3" and judged.method("champion").title == "Champion, version 3"
    assert [column.name for column in judged.measures] == [*REPORTED, "sf"]
    a, b = PackedPairs.open(packed, "test").batch(slice(None))
    # The packed pairs are normalised already, as the candidate's data is, so its levels change nothing.
    fused = Fuser(champion.fuser.network, FuserConfig("maximum")).fuse(a, b)
    expected = measure(a, b, fused, ["vif"])["vif"]["mean"].tolist()
    assert judged.method("champion").per_pair["vif"] == pytest.approx(expected, abs=2e-5)
    alone = judge_champion(champion, packed, [column.name for column in judged.measures])
    assert alone.kind == "champion"
    for name, values in judged.method("champion").per_pair.items():
        assert alone.per_pair[name] == pytest.approx(values, abs=2e-5)
    page = render_report(judged, CURVES, TRAINING)
    assert "The model to succeed" in page and "Champion, version 3" in page
    assert "champion, version 3 (better on" in summary(judged)


def test_an_unknown_measure_of_the_gate_is_refused(trained, packed):
    with pytest.raises(InputError, match="unknown measure 'beauty'; choose one of"):
        evaluate(trained, packed, ["fer"], measures=["beauty"])


def test_the_floors_are_the_lesions_kept_and_the_time_taken(trained, packed, written, tmp_path):
    found = json.loads((written / "floors.json").read_text())
    assert set(found["lesions"]) == {"CT", "MRI"} and all(0 <= kept <= 1 for kept in found["lesions"].values())
    assert found["seconds"] > 0
    slices = list(floors.phantom_slices(floors.HEADS))
    fuser = Fuser.load(trained)
    kept = floors.lesions_kept(lambda ct, mr: fuser.fuse_each(ct, mr, ["fer"]), slices)["fer"]
    assert found["lesions"]["MRI"] == pytest.approx(np.mean(kept["mri_lesion"]), abs=1e-5)
    assert floors.measure_floors(fuser, "PET-MRI", "fer")["lesions"] is None


def test_progress_counts_the_pairs(trained, packed):
    told = []
    evaluate(trained, packed, ["average"], batch=1, progress=lambda done, total, note: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_strategies_are_read_in_order_and_unknown_ones_refused():
    assert parse_strategies(" sfnn, fer,sfnn,") == ["sfnn", "fer"]
    assert parse_strategies("default,sfnn") == [DEFAULT_STRATEGY, "sfnn"]
    with pytest.raises(InputError, match="unknown fusion strategy 'median'; choose one of .*" + ".*".join(STRATEGIES)):
        parse_strategies("sfnn,median")
    with pytest.raises(InputError, match="no fusion strategy given"):
        parse_strategies(" , ")


def test_a_blank_image_is_named_instead_of_an_infinite_mean(trained, packed, tmp_path):
    pairs = np.load(packed / "test.npy")
    pairs[1, 1] = 0
    np.save(tmp_path / "test.npy", pairs)
    (tmp_path / "index.json").write_text((packed / "index.json").read_text())
    with pytest.raises(InputError, match="psnr of maximum is inf on pair 5002"):
        evaluate(trained, tmp_path, ["average"])


def test_a_model_without_its_training_record_is_refused(trained, tmp_path):
    assert read_training(trained) == (CURVES, TRAINING)
    with pytest.raises(InputError, match=r"curves\.json is missing"):
        read_training(tmp_path)


def test_a_report_that_cannot_be_drawn_leaves_nothing(evaluation, tmp_path):
    with pytest.raises(KeyError):
        write_evaluation(evaluation, [{"epoch": 1}], TRAINING, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12), lesions=st.none() | st.integers(0, 2**32))
def test_pictured_pairs_are_few_distinct_and_spread_over_the_subjects(sizes, lesions):
    entries = [{"subject": str(subject)} for subject, size in enumerate(sizes) for _ in range(size)]
    flags = None if lesions is None else np.random.default_rng(lesions).random(len(entries)) < 0.5
    chosen = choose(entries, flags)
    counts = Counter(entries[position]["subject"] for position in chosen)
    assert len(chosen) == len(set(chosen)) <= 6
    assert len(counts) == min(6, len(sizes))
    if flags is not None:
        telling = {entry["subject"] for entry, flag in zip(entries, flags, strict=True) if flag}
        assert all(flags[position] for position in chosen if entries[position]["subject"] in telling)


def test_the_pictures_are_the_pairs_and_their_fusions(evaluation, packed):
    pairs = PackedPairs.open(packed, "test")
    for row, picture in enumerate(evaluation.pictures):
        assert np.array_equal(picture.a, pairs.images[row, 0])
        assert np.array_equal(picture.b, pairs.images[row, 1])
        assert np.array_equal(picture.fused["maximum"], pairs.images[row].max(0))
        assert set(picture.fused) == {method.name for method in evaluation.methods}
        assert np.array_equal(picture.shares["average"], np.full((64, 64), 0.5))
        assert set(picture.shares) <= set(picture.fused) and "laplacian" not in picture.shares


@pytest.fixture(scope="module")
def in_colour(packed, tmp_path_factory):
    """The packed pairs as if of SPECT and MRI, with a chroma for the test pairs, and normalised."""
    folder = Path(shutil.copytree(packed, tmp_path_factory.mktemp("colour") / "packed"))
    index = json.loads((folder / "index.json").read_text())
    chroma = np.random.default_rng(0).integers(90, 170, (2, 2, 64, 64), np.uint8)
    shards = {"test_chroma": write_shards(folder, "test_chroma", iter(chroma), 2, (2, 64, 64))}
    index |= {
        "collection": "SPECT-MRI",
        "modalities": ["SPECT", "MRI"],
        "shards": shards,
        "levels": [[0, 128], [9, 99]],
    }
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def test_the_modalities_are_the_datasets_and_pictures_have_their_colour(trained, in_colour):
    result = evaluate(trained, in_colour, ["average"])
    pairs = PackedPairs.open(in_colour, "test")
    picture = result.pictures[0]
    assert np.array_equal(picture.a, join_bytes(pairs.images[0, 0], pairs.chroma[0]))
    assert np.array_equal(picture.b, pairs.images[0, 1])
    assert np.array_equal(picture.fused["maximum"], join_bytes(pairs.images[0].max(0), pairs.chroma[0]))
    page = render_report(result, CURVES, TRAINING)
    assert "SPECT-MRI fusion" in page and "Fused minus SPECT" in page and "means over SPECT and MRI" in page
    assert not re.search(r"\bCT\b", re.sub(r'src="[^"]*"', "", page))


def test_the_report_says_that_its_pictures_are_shown_as_they_were_normalised(trained, packed, in_colour, tmp_path):
    folder = Path(shutil.copytree(in_colour, tmp_path / "packed"))
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"prepared": {"normalised": "SPECT 0 to 128, MRI 9 to 99"}}))
    page = render_report(evaluate(trained, folder, ["average"]), CURVES, TRAINING)
    words = "shown as every method took them: normalised (what became black and white: SPECT 0 to 128, MRI 9 to 99)."
    assert page.count(words) == 2  # beside the pictures, and in the viewer
    assert "as every method took them" not in render_report(evaluate(trained, packed, ["average"]), CURVES, TRAINING)


def test_packed_images_that_are_normalised_are_not_normalised_again(trained, in_colour, tmp_path):
    model = Path(shutil.copytree(trained, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"levels": [[0, 0.5], [0.1, 0.3]]}))
    first, second = (evaluate(folder, in_colour, ["average"]) for folder in (trained, model))
    assert first.methods == second.methods


def test_the_summary_admits_a_defeat(evaluation):
    beaten = with_headline(evaluation, {"network-fer": [0.4, 0.4], "average": [0.3, 0.5], "maximum": [0.6, 0.5]})
    text = summary(beaten)
    assert "Elementwise maximum comes first with 0.550" in text
    assert f"reaches 0.400 and place 2 of {len(evaluation.methods)}" in text
    assert "It is level with the average (better on 1 of 2 pairs)" in text
    assert "0.150 below the elementwise maximum (better on 0 of 2 pairs)" in text
    assert beaten.margin("maximum") == pytest.approx(-0.15)


def test_the_summary_tells_a_win_and_the_data(evaluation):
    text = summary(with_headline(evaluation, {"network-fer": [0.7, 0.7]}))
    assert "This network, FER, comes first with 0.700" in text
    assert "0.700 above the average (better on 2 of 2 pairs)" in text
    assert "trained on 6 pairs of 3 subjects" in text
    assert "judged on 2 pairs of 1 held-out subject," in text
    assert "phantom" not in text
    assert "no image here shows a patient" in summary(replace(evaluation, synthetic=True))


def test_the_summary_says_which_features_the_loss_saw(evaluation):
    assert "a fixed stack of random features" in summary(evaluation)
    assert "no pretrained network was used" in summary(evaluation)
    pretrained = summary(evaluation, TRAINING | {"perceptual": "vgg16-bn"})
    assert "came from the vgg16-bn feature stack" in pretrained and "random" not in pretrained
    assert "no perceptual loss" in summary(evaluation, TRAINING | {"perceptual": "none"})


def test_a_network_of_other_data_is_not_said_to_be_new_to_the_subjects(evaluation):
    text = summary(evaluation, TRAINING | {"dataset_version": "f" * 32 + ".dir"})
    assert "it may have seen some of these subjects" in text
    assert "held-out" not in text


def test_the_page_marks_the_best_and_the_candidate_and_loads_nothing(evaluation):
    page = render_report(with_headline(evaluation, {"maximum": [0.9, 0.9]}), CURVES, TRAINING | {"note": "<b>x</b>"})
    rows = re.findall(r"<tr(.*?)</tr>", page.partition('id="pictures"')[0], re.DOTALL)
    assert ['"candidate"' in row for row in rows if "This network, FER" in row] == [True]
    assert [row.count('class="best">0.900') for row in rows if "Elementwise maximum" in row] == [1]
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "http://" not in page and "https://" not in page
    assert "<b>x</b>" not in page
    assert len(page) < 6_000_000


@given(
    st.lists(
        st.tuples(st.integers(1, 500), st.floats(-1e3, 1e6) | st.just(math.nan), st.floats(1e-6, 1e6)),
        min_size=1,
        max_size=40,
        unique_by=lambda row: row[0],
    ).map(sorted)
)
def test_a_curve_is_drawn_inside_its_frame(rows):
    figure = ElementTree.fromstring(draw_curve("Total <loss>", rows)["svg"])
    points = [point for line in figure.iter("polyline") for point in line.get("points").split()]
    points += [f"{dot.get('cx')},{dot.get('cy')}" for dot in figure.iter("circle")]
    assert len(points) == len(rows) + sum(math.isfinite(train) for _, train, _ in rows)
    for x, y in (map(float, point.split(",")) for point in points):
        assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    heights = [float(text.get("y")) for text in figure.iter("text") if text.get("text-anchor") == "end"]
    assert 2 <= len(heights) <= 9
    assert all(0 <= height <= HEIGHT for height in heights)


def test_a_falling_loss_falls_and_its_scale_is_told():
    figure = draw_curve("L2", [(1, 1.0, 2.0), (2, 0.1, 0.2), (3, 0.01, 0.02)])
    (train, _) = ElementTree.fromstring(figure["svg"]).iter("polyline")
    heights = [float(point.split(",")[1]) for point in train.get("points").split()]
    assert heights == sorted(heights)
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert (figure["log"], figure["train"], figure["validation"]) == (True, "0.01", "0.02")
    assert draw_curve("L2", [(1, math.nan, math.nan)])["svg"] is None


def test_the_component_writes_the_folder_the_metrics_and_the_page(trained, packed, written, tmp_path):
    folder, metrics = dsl.Dataset(uri=str(tmp_path / "evaluation")), dsl.Metrics(uri=str(tmp_path / "metrics"))
    page = dsl.HTML(uri=str(tmp_path / "report.html"))
    inputs = (dsl.Dataset(uri=str(packed)), dsl.Model(uri=str(trained)))
    component.python_func(*inputs, "fer,sfnn", "vif", "", "code", folder, metrics, page)
    table = json.loads((tmp_path / "evaluation" / "table.json").read_text())
    means = {row["name"]: row["means"] for row in table["methods"]}
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} == FILES
    assert Path(page.path).read_bytes() == (tmp_path / "evaluation" / "report.html").read_bytes()
    margin = means["network-fer"]["qabf"] - means["average"]["qabf"]
    assert metrics.metadata.pop("qabf_margin_over_average") == pytest.approx(margin, abs=1e-6)
    assert metrics.metadata == means["network-fer"]


@pytest.mark.integration
def test_the_component_under_the_local_runner(trained, packed, tmp_path, monkeypatch):
    @dsl.component(base_image="python:3.11", install_kfp_package=False)
    def bring(packed: str, trained: str, dataset: dsl.Output[dsl.Dataset], model: dsl.Output[dsl.Model]):
        import shutil

        shutil.copytree(packed, dataset.path)
        shutil.copytree(trained, model.path)

    @dsl.pipeline
    def judged(packed: str, trained: str):
        given = bring(packed=packed, trained=trained).outputs
        asked = {"strategies": "average", "gate_measures": "vif", "champion": ""}
        component(dataset=given["dataset"], model=given["model"], **asked, code_version="1")

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path))
    judged(packed=str(packed), trained=str(trained))
    (table,) = tmp_path.rglob("evaluation/table.json")
    (page,) = tmp_path.rglob("report")
    assert json.loads(table.read_text())["candidate"] == "network-average"
    assert page.read_text().startswith("<!doctype html>")


def test_the_component_compiles_with_its_interface(tmp_path):
    compiler.Compiler().compile(component, str(tmp_path / "evaluate.json"))
    described = json.loads((tmp_path / "evaluate.json").read_text())["components"]["comp-evaluate"]
    assert set(described["inputDefinitions"]["parameters"]) == {
        "strategies",
        "gate_measures",
        "champion",
        "code_version",
    }
    assert set(described["inputDefinitions"]["artifacts"]) == {"dataset", "model"}
    kinds = {n: a["artifactType"]["schemaTitle"] for n, a in described["outputDefinitions"]["artifacts"].items()}
    assert kinds == {"evaluation": "system.Dataset", "metrics": "system.Metrics", "report": "system.HTML"}
