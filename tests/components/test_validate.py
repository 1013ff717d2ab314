import csv
import hashlib
import json
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from kfp import compiler, dsl, local
from PIL import Image

from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from components.validate.component import validate
from components.validate.measurements import measure_images
from components.validate.report import ValidationReport
from components.validate.suite import validate_dataset
from model.errors import InputError

ROOT = Path(__file__).parents[2]
SUBJECTS, SLICES, SIDE = ("2", "16", "20", "33", "41"), 3, 64


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Fifteen small phantom pairs of five subjects, as ingest leaves them."""
    folder = tmp_path_factory.mktemp("ingested")
    phantom = PhantomConfig(subjects=len(SUBJECTS), slices=SLICES, size=SIDE)
    ingest("phantom", "", phantom, folder / "made")
    drawn = {
        subject: SUBJECTS[number] for number, subject in enumerate(sorted({s[:-3] for s in stems(folder / "made")}))
    }
    for path in (folder / "made").glob("CT-MRI/*/*.png"):
        if path.parent.name in ("CT", "MRI"):
            target = folder / "CT-MRI" / path.parent.name / f"{drawn[path.stem[:-3]]}{int(path.stem[-3:]) - 1:03}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    shutil.rmtree(folder / "made")
    facts = {"source": "made up", "collection": "CT-MRI", "modalities": ["CT", "MRI"], "version": "0" * 32 + ".dir"}
    (folder / "dataset.json").write_text(json.dumps(facts | {"pairs": 15, "subjects": 5}))
    write_manifest(folder)
    return folder


def stems(folder):
    return [path.stem for path in folder.glob("CT-MRI/CT/*.png")]


@pytest.fixture
def folder(clean, tmp_path):
    """A copy of the clean dataset to damage."""
    return Path(shutil.copytree(clean, tmp_path / "ingested"))


def save(levels, path):
    Image.fromarray(levels).save(path)


def change(path, function):
    save(function(np.asarray(Image.open(path))), path)


def write_manifest(folder):
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "collection", "modality", "name", "subject", "slice", "bytes", "md5"])
        for path in sorted(folder.glob("CT-MRI/*/*.png")):
            content, name = path.read_bytes(), path.stem
            place = path.relative_to(folder).as_posix(), "CT-MRI", path.parent.name, name, name[:-3], int(name[-3:])
            rows.writerow([*place, len(content), hashlib.md5(content).hexdigest()])


def judge(folder, **parameters):
    return validate_dataset(folder, folder / "docs.html", folder / "report.json", **parameters)


def test_clean_pairs_pass_without_a_warning(folder):
    report = judge(folder, min_pairs=15)
    report.require_passed()
    assert report.passed
    assert (report.images, report.pairs, report.subjects) == (30, 15, 5)
    assert report.critical_failures == report.warnings == ()
    told = json.loads((folder / "report.json").read_text())
    assert (told["passed"], told["min_pairs"], told["dataset"]["collection"]) == (True, 15, "CT-MRI")


@pytest.fixture(scope="module")
def damaged(clean, tmp_path_factory):
    """A dataset with every critical defect, each at a file of its own, and its report."""
    folder = Path(shutil.copytree(clean, tmp_path_factory.mktemp("damaged") / "ingested"))
    ct, mri = folder / "CT-MRI/CT", folder / "CT-MRI/MRI"
    (mri / "2000.png").unlink()
    write_manifest(folder)
    (ct / "2001.png").write_bytes((ct / "2001.png").read_bytes()[:700])
    (ct / "2002.png").write_text("<p>404: no such image</p>")
    Image.open(ct / "16000.png").save(ct / "16000.png", format="JPEG")
    (ct / "16001.png").unlink()
    change(ct / "16002.png", lambda levels: np.stack([levels] * 3, axis=-1))
    change(ct / "20000.png", lambda levels: levels.astype(np.uint16) * 257)
    change(ct / "20001.png", lambda levels: levels[:32])
    change(ct / "20002.png", lambda levels: levels[:32])
    change(mri / "20002.png", lambda levels: levels[:32])
    change(ct / "33000.png", lambda levels: levels[:, 24:39])
    change(ct / "33001.png", lambda levels: levels[24:39])
    change(ct / "33002.png", lambda levels: np.full_like(levels, 90))
    # Another compression, another hash of the file: still the same picture.
    Image.open(ct / "41000.png").save(ct / "41001.png", compress_level=0)
    return folder, judge(folder)


@pytest.mark.parametrize(
    ("complaint", "files"),
    [
        ("without partner", ["CT/2000"]),
        ("unreadable", ["CT/16000", "CT/16001", "CT/2001", "CT/2002"]),
        ("not grey", ["CT/16002"]),
        ("not 8-bit", ["CT/20000"]),
        ("of another size than the partner", [f"{m}/{n}" for m in ("CT", "MRI") for n in (20001, 33000, 33001)]),
        ("not of size 64x64", ["CT/20001", "CT/20002", "CT/33000", "CT/33001", "MRI/20002"]),
        ("under 16 pixels wide", ["CT/33000"]),
        ("under 16 pixels high", ["CT/33001"]),
        ("of one grey level", ["CT/33002"]),
        ("with the same content as another", ["CT/41000", "CT/41001"]),
    ],
)
def test_critical_defect_is_caught_and_names_its_files_and_no_other(damaged, complaint, files):
    folder, report = damaged
    (finding,) = (finding for finding in report.critical_failures if complaint in finding.complaint)
    assert finding.files == tuple(f"CT-MRI/{file}.png" for file in files)
    assert finding.count == len(files) == len(finding.details)
    assert finding.files[0] in finding.complaint
    page = (folder / "docs.html").read_text()
    assert all(file in page for file in finding.files)


def test_critical_failures_become_one_line(damaged):
    _, report = damaged
    assert len(report.critical_failures) == 10
    with pytest.raises(InputError) as error:
        report.require_passed()
    line = str(error.value)
    assert "\n" not in line
    assert all(finding.complaint in line for finding in report.critical_failures)


CT, MRI = "CT-MRI/CT/16001.png", "CT-MRI/MRI/16001.png"


def lose_partner(folder):
    (folder / MRI).unlink()
    write_manifest(folder)


def test_single_defect_is_one_complaint(folder):
    lose_partner(folder)
    with pytest.raises(InputError, match=rf"^validation failed: 1 image without partner \({CT}\)$"):
        judge(folder).require_passed()


def test_too_few_pairs_and_subjects_are_told_with_their_number(folder):
    for path in folder.glob("CT-MRI/*/*.png"):
        if path.stem[:-3] in ("20", "33", "41"):
            path.unlink()
    write_manifest(folder)
    complaints = [finding.complaint for finding in judge(folder, min_pairs=7).critical_failures]
    assert complaints == ["only 2 of the 3 subjects needed", "only 6 of the 7 pairs needed"]


def test_failure_of_every_file_is_counted_and_its_first_ten_named(folder):
    for path in folder.glob("CT-MRI/*/*.png"):
        path.write_bytes(b"")
    (finding,) = judge(folder).critical_failures
    assert (finding.count, len(finding.files)) == (30, 10)
    assert "and 20 more" in (folder / "docs.html").read_text()


def test_warnings_name_their_files_and_do_not_stop(folder):
    change(folder / "CT-MRI/CT/2000.png", lambda levels: 255 - levels // 4)
    change(folder / "CT-MRI/CT/2001.png", lambda levels: np.maximum(levels, 20))
    change(folder / "CT-MRI/CT/2002.png", lambda levels: np.where(levels > 150, 99, 0).astype(np.uint8))
    for path in folder.glob("CT-MRI/*/4100[12].png"):
        path.unlink()
    write_manifest(folder)
    report = judge(folder)
    report.require_passed()
    files = {finding.sentence.split(" of ")[0]: finding.files for finding in report.warnings}
    assert files == {
        "The mean grey level": ("CT-MRI/CT/2000.png",),
        "Background (grey level up to 5) covers between 5% and 95%": ("CT-MRI/CT/2000.png", "CT-MRI/CT/2001.png"),
        "Every image looks like its modality.": ("CT-MRI/CT/2001.png", "CT-MRI/CT/2002.png"),
        "The entropy": ("CT-MRI/CT/2002.png",),
        "Every subject has at least 2 pairs.": ("CT-MRI/CT/41000.png", "CT-MRI/MRI/41000.png"),
    }


def test_measurements_of_a_known_image(folder):
    levels = np.zeros((64, 32), np.uint8)
    levels[:16] = 200
    save(levels, folder / CT)
    row = measure_images(folder).set_index("path").loc[CT]
    assert (row["width"], row["height"], row["mode"], row["bit_depth"]) == (32, 64, "L", 8)
    assert (row["min"], row["max"], row["mean"], row["background"]) == (0, 200, 50, 0.75)
    assert row["entropy"] == pytest.approx(2 - 0.75 * math.log2(3))
    assert row["readable"]
    assert row["partner"]
    assert (row["subject"], row["subject_pairs"]) == ("16", 3)


def test_unreadable_file_is_a_row_with_its_reason(folder):
    (folder / CT).write_bytes((folder / CT).read_bytes()[:700])
    table = measure_images(folder).set_index("path")
    assert len(table) == 30
    assert list(table.index[~table["readable"]]) == [CT]
    assert "truncated" in table.loc[CT, "problem"]
    assert table.loc[CT, ["width", "mean", "sha256"]].isna().all()


class Loads(HTMLParser):
    """Collects what a browser would fetch or run, and every link."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, value) for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag in ("script", "iframe", "object", "embed"):
            self.found.append((tag, None))


def test_data_docs_are_one_file_that_loads_nothing(damaged):
    folder, _ = damaged
    page = (folder / "docs.html").read_text()
    loads = Loads()
    loads.feed(page)
    assert loads.found == [("link", "data:,")]
    assert not any(trace in page for trace in ("http:", "https:", "url(", "@import"))
    assert page.count("Observed Value") > 5, "the rendering of Great Expectations is missing"


def test_same_dataset_gives_the_same_bytes(damaged, tmp_path):
    folder, _ = damaged
    validate_dataset(folder, tmp_path / "docs.html", tmp_path / "report.json")
    assert {path.name for path in tmp_path.iterdir()} == {"docs.html", "report.json"}
    for name in ("docs.html", "report.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_folder_that_is_no_ingest_output_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json"):
        judge(tmp_path)
    (folder / "manifest.csv").write_text("path,modality,name,subject\n")
    with pytest.raises(InputError, match="lists no image"):
        judge(folder)
    (folder / "manifest.csv").write_text("path,name\na,b\n")
    with pytest.raises(InputError, match="no column modality, subject"):
        judge(folder)
    with pytest.raises(InputError, match="min_pairs is 0"):
        judge(folder, min_pairs=0)


def call_component(folder, **parameters):
    outputs = {
        "data_docs": dsl.HTML(uri=str(folder / "out" / "docs.html")),
        "report": dsl.Artifact(uri=str(folder / "out" / "report.json")),
        "metrics": dsl.Metrics(uri=str(folder / "metrics.json")),
    }
    arguments = {
        "dataset": dsl.Dataset(uri=str(folder)),
        "min_pairs": 6,
        "size": 0,
        "model_name": "m",
        "code_version": "1",
    } | parameters
    try:
        validate.python_func(**arguments, **outputs)
    finally:
        written = {path.name: path.read_text() for path in (folder / "out").iterdir()}
    return outputs["metrics"].metadata, written


def test_images_that_will_be_brought_to_one_size_may_differ(folder):
    for modality in ("CT", "MRI"):
        path = folder / "CT-MRI" / modality / "2000.png"
        Image.open(path).resize((SIDE, 2 * SIDE)).save(path)
    assert not judge(folder).passed
    report = judge(folder, size=SIDE)
    assert report.passed
    assert [finding.complaint for finding in report.warnings if "not of size" in finding.complaint]


def test_colour_is_for_pet_and_spect_alone(folder):
    for modality in ("CT", "MRI"):
        for path in (folder / "CT-MRI" / modality).iterdir():
            Image.open(path).convert("RGB").save(path)
    assert [f.count for f in judge(folder).critical_failures if "not grey" in f.complaint] == [30]
    for name in ("manifest.csv", "dataset.json"):
        text = (folder / name).read_text().replace(",CT,", ",SPECT,").replace('"CT"', '"SPECT"')
        (folder / name).write_text(text)
    assert [f.count for f in judge(folder).critical_failures if "not grey" in f.complaint] == [15]


def test_component_logs_its_counts(folder):
    counts, written = call_component(folder)
    assert counts == {"images": 30, "pairs": 15, "subjects": 5, "critical_failures": 0, "warnings": 0}
    assert set(written) == {"docs.html", "report.json"}


def test_component_leaves_its_outputs_for_the_next_step_to_refuse_a_failed_dataset(folder):
    lose_partner(folder)
    counts, written = call_component(folder)
    assert counts["critical_failures"] == 1
    told = json.loads(written["report.json"])
    with pytest.raises(InputError, match="1 image without partner"):
        ValidationReport.read(folder / "out" / "report.json").require_passed()
    assert [finding["files"] for finding in told["critical_failures"]] == [[CT]]
    page = (folder / "out" / "docs.html").read_text()
    assert "failed" in page
    assert CT in page


@pytest.mark.integration
def test_component_under_the_local_runner(clean, tmp_path, monkeypatch):
    @dsl.component(base_image="python:3.11", install_kfp_package=False)
    def bring(folder: str, dataset: dsl.Output[dsl.Dataset]):
        import shutil

        shutil.copytree(folder, dataset.path)

    @dsl.pipeline
    def judged(folder: str):
        validate(dataset=bring(folder=folder).outputs["dataset"], min_pairs=6, size=0, model_name="m", code_version="1")

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path))
    judged(folder=str(clean))
    (report,) = tmp_path.rglob("report")
    (page,) = tmp_path.rglob("data_docs")
    assert json.loads(report.read_text())["passed"]
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_component_compiles_with_its_interface(tmp_path):
    compiler.Compiler().compile(validate, str(tmp_path / "validate.json"))
    component = json.loads((tmp_path / "validate.json").read_text())["components"]["comp-validate"]
    assert set(component["inputDefinitions"]["parameters"]) == {"min_pairs", "size", "model_name", "code_version"}
    outputs = component["outputDefinitions"]["artifacts"]
    assert outputs["data_docs"]["artifactType"]["schemaTitle"] == "system.HTML"
    assert set(outputs) == {"data_docs", "report", "metrics"}
