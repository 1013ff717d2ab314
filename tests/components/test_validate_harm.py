"""Real harm done to a phantom dataset, one at a time: which expectation tells, how gravely, and of which files."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from components.validate.drift import bounds, summarise
from components.validate.measurements import measure_images
from components.validate.reading import Slice, read_slice
from components.validate.reference import Reference, find_reference
from components.validate.suite import validate_dataset

ROOT = Path(__file__).parents[2]
CT, MRI = "CT-MRI/CT/102002.png", "CT-MRI/MRI/102002.png"
ANOTHER = "CT-MRI/CT/104001.png"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean") / "ingested"
    ingest("phantom", "", PhantomConfig(subjects=4, slices=3, size=128), folder)
    return folder


@pytest.fixture
def folder(clean, tmp_path):
    return Path(shutil.copytree(clean, tmp_path / "ingested"))


def judge(folder, reference=None):
    return validate_dataset(
        folder, folder / "docs.html", folder / "report.json", 6, *([reference] if reference else [])
    )


def pixels(path):
    return np.asarray(Image.open(path))


def change(path, function):
    Image.fromarray(function(pixels(path))).save(path)


def shifted(levels, by):
    moved = np.zeros_like(levels)
    moved[:, by:] = levels[:, :-by]
    return moved


def turned(levels, degrees):
    return np.asarray(Image.fromarray(levels).rotate(degrees, Image.Resampling.BILINEAR))


def swap(folder):
    ct, mri = pixels(folder / CT), pixels(folder / MRI)
    Image.fromarray(mri).save(folder / CT)
    Image.fromarray(ct).save(folder / MRI)


def noisy_copy(folder):
    noise = np.random.default_rng(0).normal(0, 12, (128, 128))
    Image.fromarray(np.clip(pixels(folder / CT) + noise, 0, 255).astype(np.uint8)).save(folder / ANOTHER)


def brighter_copy(folder):
    Image.fromarray(np.clip(pixels(folder / MRI) * 1.25 + 10, 0, 255).astype(np.uint8)).save(
        folder / ANOTHER.replace("/CT/", "/MRI/")
    )


def cmyk(folder):
    Image.open(folder / CT).convert("CMYK").save(folder / CT, format="JPEG")


def name_splits(folder):
    splits = {"train": [{"name": "102001"}, {"name": "102002"}], "test": [{"name": "102003"}, {"name": "103001"}]}
    (folder / "CT-MRI" / "index.json").write_text(json.dumps({"splits": splits}))


def shift_all(folder):
    for path in (folder / "CT-MRI" / "MRI").iterdir():
        change(path, lambda levels: shifted(levels, 6))


SUBJECT = {f"CT-MRI/{modality}/10200{number}.png" for modality in ("CT", "MRI") for number in (1, 2, 3)}
HARM = {
    "partner shifted by 12 of 256 pixels": (
        lambda folder: change(folder / MRI, lambda levels: shifted(levels, 6)),
        ("warning", "better elsewhere", {CT, MRI}),
    ),
    "partner turned by 20 degrees": (
        lambda folder: change(folder / MRI, lambda levels: turned(levels, 20)),
        ("warning", "better elsewhere", {CT, MRI}),
    ),
    "a whole series shifted": (shift_all, ("critical", "too many for chance", None)),
    "CT and MRI swapped": (swap, ("critical", "CT and partner swapped", {CT, MRI})),
    "an MRI in the CT folder": (
        lambda folder: change(folder / CT, lambda _: np.flip(pixels(folder / MRI), 1)),
        ("warning", "unlike", {CT}),
    ),
    "copied to another subject with noise": (noisy_copy, ("critical", "nearly equal", {CT, ANOTHER})),
    "copied to another subject, brighter": (
        brighter_copy,
        ("critical", "nearly equal", {MRI, ANOTHER.replace("/CT/", "/MRI/")}),
    ),
    "16 bits": (
        lambda folder: change(folder / CT, lambda levels: levels.astype(np.uint16) * 257),
        ("critical", "not 8-bit", {CT}),
    ),
    "CMYK": (cmyk, ("critical", "unreadable", {CT})),
    "blurred": (
        lambda folder: change(folder / MRI, lambda x: np.asarray(Image.fromarray(x).reduce(4).resize(x.shape, 2))),
        ("warning", "blurred", {MRI}),
    ),
    "a subject in two splits": (name_splits, ("critical", "in two splits", SUBJECT)),
}


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_told_with_its_severity_and_its_files(folder, harm):
    do, (severity, complaint, files) = HARM[harm]
    do(folder)
    report = judge(folder)
    findings = report.critical_failures if severity == "critical" else report.warnings
    (finding,) = (finding for finding in findings if complaint in finding.complaint)
    if files:
        assert set(finding.files) == files
    assert report.passed is (severity == "warning")
    page = (folder / "docs.html").read_text()
    assert all(file in page for file in finding.files)


def test_clean_phantom_has_nothing_to_report_but_what_was_not_judged(clean, tmp_path):
    report = validate_dataset(clean, tmp_path / "docs.html", tmp_path / "report.json")
    assert report.critical_failures == report.warnings == ()
    assert [reason.split(":")[0] for reason in report.skipped] == [
        "Subjects in two splits",
        "Drift from the champion's training data",
    ]
    statistics = json.loads((tmp_path / "report.json").read_text())["statistics"]
    assert statistics["modalities"]["CT"]["subjects"] == 4
    assert "Not judged. Drift" in (tmp_path / "docs.html").read_text()


def test_a_manifest_may_name_the_splits(folder):
    path = folder / "manifest.csv"
    rows = list(csv.DictReader(path.open(newline="")))
    for row in rows:
        row["split"] = "test" if row["subject"] == "101" else "train"
    rows[-1]["split"] = "test"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = measure_images(folder)
    assert set(table.loc[table["splits"].notna(), "subject"]) == {rows[-1]["subject"]}
    assert set(table["splits"].dropna()) == {"test, train"}


def test_drift_is_a_warning_that_names_the_champion_and_the_furthest_images(clean, folder):
    reference = Reference("fuser version 7", summarise(measure_images(clean)))
    for path in (folder / "CT-MRI" / "MRI").iterdir():
        change(path, lambda levels: (levels * 0.5).astype(np.uint8))
    report = judge(folder, reference)
    assert report.passed
    (finding,) = (each for each in report.warnings if "the mean of MRI images drifted" in each.complaint)
    assert "fuser version 7" in finding.complaint
    assert finding.files and all(file.startswith("CT-MRI/MRI/") for file in finding.files)
    assert not any("of CT images" in each.complaint for each in report.warnings)


def test_drift_allows_for_the_chance_of_few_subjects(clean):
    table = measure_images(clean)
    all_four, three = summarise(table), summarise(table[table["subject"] != "104"])
    expected = bounds(all_four, three)
    assert len(expected) == 10
    assert all(abs(three[each.modality][each.statistic]["mean"] - each.centre) <= each.margin for each in expected)
    assert bounds(all_four, summarise(table[table["subject"] < "103"])) == [], "two subjects tell nothing of chance"


@pytest.mark.parametrize("uri", ["", "sqlite:////nowhere/mlflow.db", "http://127.0.0.1:9", "ftp://wrong"])
def test_a_registry_out_of_reach_is_a_reason_and_no_failure(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    reference = find_reference("ct-mri-fusion", "CT-MRI")
    assert reference.statistics is None and reference.missing
    assert "\n" not in reference.missing


PNG = Image.new("L", (8, 8), 7)


@pytest.fixture(scope="module")
def encoded(clean, tmp_path_factory):
    colour = tmp_path_factory.mktemp("colour") / "c.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)).save(colour)
    return [(clean / CT).read_bytes(), colour.read_bytes()], colour.with_name("damaged.png")


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_bytes_are_a_recorded_problem_and_never_an_exception(encoded, data):
    contents, path = encoded
    content = bytearray(data.draw(st.sampled_from(contents)))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)
    ):
        content[place] = value
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    found = read_slice(path)
    if isinstance(found, str):
        assert found and "\n" not in found
    else:
        assert isinstance(found, Slice)
        assert found.bytes.dtype == np.uint8 and found.bytes.ndim == 2


@pytest.mark.parametrize(
    ("save", "problem"),
    [
        (lambda path: path.write_bytes(b""), "not a PNG image"),
        (lambda path: Image.new("CMYK", (8, 8)).save(path, format="TIFF"), "not a PNG image but TIFF, mode CMYK"),
        (lambda path: Image.new("LA", (8, 8)).save(path), "transparent pixels"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: Image.new("1", (20000, 5000)).save(path), "claims more pixels than any slice has"),
    ],
)
def test_what_is_no_plain_png_says_what_it_is(tmp_path, save, problem):
    save(tmp_path / "slice.png")
    assert read_slice(tmp_path / "slice.png") == problem


def test_deep_colour_is_told_by_the_header(tmp_path):
    path = tmp_path / "deep.png"
    PNG.convert("RGB").save(path)
    content = bytearray(path.read_bytes())
    assert read_slice(path).bit_depth == content[24] == 8


def test_the_atlas_passes_and_warns_of_its_three_empty_slices_only(shared, tmp_path):
    ingest(str(shared / "atlas"), "", PhantomConfig(), tmp_path / "ingested")
    report = judge(tmp_path / "ingested")
    report.require_passed()
    (warning,) = report.warnings
    assert "of little content" in warning.complaint
    assert warning.files == tuple(f"CT-MRI/CT/{name}.png" for name in ("33023", "37022", "41023"))
