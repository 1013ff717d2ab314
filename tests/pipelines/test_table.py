"""`fusion table`: its figures are those of measuring each method alone, in every file, and what did not run is told."""

import csv
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import model.methods
from components.evaluate import table as output
from components.evaluate.comparison import compare
from components.evaluate.contenders import contenders
from components.evaluate.held_out import held_out_pairs
from components.evaluate.poster import PRINTED, training_note
from components.ingest.version import folder_version
from components.preprocess.splits import split_subjects
from model.errors import InputError
from model.fuser import Fuser, FuserConfig
from model.images import read_grey
from model.methods import METHODS, Resources
from model.metrics import MEASURES, measure
from model.network import FusionNetwork
from model.shares import share_of_first
from model.splits import PAPER_TEST_PAIRS
from model.statistics import holm, sign_flip_test
from model.strategies import STRATEGIES
from tests.conftest import blobs

SUBJECTS = {"2": (7, 9), "16": (13,), "20": range(1, 9), "34": (1,), "37": (8, 9, 15), "41": (7, 12)}
NAMES = [f"{subject}{number:03d}" for subject, numbers in SUBJECTS.items() for number in numbers]
METHODS_RUN = ("dilran", "average", "maximum")
TRAINING = {"epochs": 100, "batch": 4, "crop": 128, "perceptual": "vgg19", "dataset_version": "another.dir"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder of 17 pairs of 64x64 by six subjects, six of them test pairs of the paper."""
    folder = tmp_path_factory.mktemp("data")
    images = blobs(len(NAMES), 64, 1)
    for row, modality in enumerate(("CT", "MRI")):
        (folder / "CT-MRI" / modality).mkdir(parents=True)
        for name, image in zip(NAMES, images[:, row], strict=True):
            Image.fromarray(image).save(folder / "CT-MRI" / modality / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Shipped weights: only the network's, for both splits."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for split in ("subject", "paper"):
        Fuser(FusionNetwork(), FuserConfig("fer")).save(folder / f"dilran-{split}")
        (folder / f"dilran-{split}" / "training.json").write_text(json.dumps(TRAINING))
    return folder


@pytest.fixture(autouse=True)
def _shipped(monkeypatch, shipped):
    monkeypatch.setattr(model.methods, "SHIPPED", shipped)


@pytest.fixture(scope="module")
def made(data, shipped, tmp_path_factory):
    """The comparison of the four methods by the standard protocol, one of them without weights, and its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.methods, "SHIPPED", shipped)
        competing = contenders("standard", Resources(), [*METHODS_RUN, "msrpan"], None)
        result = compare(data, "blobs", "standard", Resources(), competing, facts={"Date": "2026-11-23"})
    folder = tmp_path_factory.mktemp("made") / "table"
    output.write_table(result, folder)
    return result, folder


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def markdown_rows(text):
    """The cells of every table row of a Markdown text, by the first cell; rows of several tables are joined."""
    rows = {}
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| :--"):
            first, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            rows.setdefault(first, []).extend(cells)
    return rows


def alone(data, name, pairs):
    """What measuring one method on these pairs, one by one and by hand, gives."""
    fuse = METHODS[name].load(Resources())
    values = {}
    for pair in pairs:
        a, b = (read_grey(data / "CT-MRI" / each / f"{pair}.png")[None] for each in ("CT", "MRI"))
        names = [key for key, entry in MEASURES.items() if entry.smallest <= 64]
        for key, each in measure(a, b, fuse(a, b), names).items():
            values.setdefault(key, []).append(float(each["mean"] if isinstance(each, dict) else each))
    return values


def test_the_viewer_of_the_page_has_the_weights_of_every_method_that_decides_them(data, tmp_path):
    names = ["dilran", "dilran-sfnn", "average", "laplacian"]
    competing = contenders("standard", Resources(), names, None)
    result = compare(data, "blobs", "standard", Resources(), competing)
    output.write_table(result, tmp_path / "table")
    page = (tmp_path / "table" / "table.html").read_text(encoding="utf-8")
    scene = json.loads(re.search(r'<script type="application/json" id="view-scene">(.*?)</script>', page, re.S)[1])
    fusers = {name: METHODS[name].load(Resources()) for name in names}
    for picture, shown in zip(result.pictures, scene["pairs"], strict=True):
        a, b = (read_grey(data / "CT-MRI" / each / f"{picture.pair}.png")[None] for each in ("CT", "MRI"))
        told = {name: share_of_first(fuse, a, b) for name, fuse in fusers.items()}
        known = {name: share[0, 0].numpy() for name, share in told.items() if share is not None}
        assert picture.shares.keys() == shown["shares"].keys() == known.keys() and "laplacian" not in known
        assert "dilran-sfnn" in known
        for name, share in known.items():
            assert np.allclose(picture.shares[name], share, atol=1e-5)
        assert shown["shares"]["average"] == 0.5


@pytest.mark.parametrize("name", METHODS_RUN)
def test_every_file_holds_what_measuring_the_method_alone_gives(made, data, name):
    result, folder = made
    pairs = [pair.name for pair in result.pairs]
    expected = alone(data, name, pairs)
    row = next(row for row in result.rows if row.contender.name == name)
    means = next(each for each in read_csv(folder / "table.csv") if each["method"] == name)
    long = [each for each in read_csv(folder / "per_pair.csv") if each["method"] == name]
    cells = markdown_rows((folder / "table.md").read_text())[row.contender.title]
    summaries = next(m for m in json.loads((folder / "table.json").read_text())["methods"] if m["name"] == name)
    page = (folder / "table.html").read_text()
    assert list(expected) == [column.name for column in result.measures] == list(row.values)
    assert len(cells) == len(expected) and len(long) == len(expected) * len(pairs)
    for cell, (key, values) in zip(cells, expected.items(), strict=True):
        assert row.values[key] == pytest.approx(values, abs=2e-4)
        mean = np.mean(row.values[key])
        assert float(means[key]) == pytest.approx(mean, abs=1e-6)
        assert summaries["summaries"][key]["mean"] == pytest.approx(mean, abs=1e-6)
        assert summaries["summaries"][key]["low"] <= mean <= summaries["summaries"][key]["high"]
        shown = re.sub(r"[*\u207a\u207b]", "", cell).replace("\u2212", "-")
        assert float(shown) == pytest.approx(mean, abs=0.006)
        assert shown.replace("-", "\u2212") in page
        told = {each["pair"]: float(each["value"]) for each in long if each["measure"] == key}
        assert told == dict(zip(pairs, row.values[key], strict=True))


def test_bold_is_the_best_of_its_column_and_only_that(made):
    result, folder = made
    rows = markdown_rows((folder / "table.md").read_text())
    for index, column in enumerate(result.measures):
        means = {row.contender.title: result.summaries[row.contender.name][column.name].mean for row in result.ran}
        shown = {title: re.sub(r"[*\u207a\u207b]", "", rows[title][index]) for title in means}
        bold = {title for title in means if "**" in rows[title][index]}
        assert bold == {title for title in means if shown[title] == shown[max(means, key=means.__getitem__)]}


def test_marks_follow_the_holm_corrected_sign_flip_test(made):
    result, folder = made
    table = json.loads((folder / "table.json").read_text())
    values = {each["name"]: each["per_pair"] for each in table["methods"]}
    rows = markdown_rows((folder / "table.md").read_text())
    seen = set()
    for index, column in enumerate(result.measures):
        own, others = values["dilran"][column.name], METHODS_RUN[1:]
        differences = [np.subtract(values[name][column.name], own) for name in others]
        expected = holm([float(sign_flip_test(each[:, None])[0]) for each in differences])
        for name, p, difference in zip(others, expected, differences, strict=True):
            assert result.summaries[name][column.name].p == pytest.approx(p)
            mark = "" if p >= 0.05 else "\u207a" if difference.mean() > 0 else "\u207b"
            cell = rows[METHODS[name].title][index]
            assert re.sub(r"[^\u207a\u207b]", "", cell) == mark
            seen.add(mark)
    assert table["reference"] == "dilran" and seen - {""}


def test_a_method_that_cannot_run_is_in_every_file_with_its_reason(made):
    result, folder = made
    reason = next(row.reason for row in result.rows if row.contender.name == "msrpan")
    assert "no trained weights shipped for msrpan" in reason
    assert markdown_rows((folder / "table.md").read_text())["MSRPAN"][0] == "not run"
    assert f"- MSRPAN: {reason}" in (folder / "table.md").read_text()
    for name in ("table.csv", "per_pair.csv"):
        (row,) = [each for each in read_csv(folder / name) if each["method"] == "msrpan"]
        assert row["not_run"] == f"not run: {reason}"
    assert (
        next(m for m in json.loads((folder / "table.json").read_text())["methods"] if m["name"] == "msrpan")["not_run"]
        == reason
    )
    assert "not run: no trained weights shipped for msrpan" in (folder / "table.html").read_text()


def test_the_title_tells_what_the_figures_are_of(made, data, shipped):
    result, folder = made
    text = (folder / "table.md").read_text()
    assert text.startswith("# Standard protocol, split by subject, ")
    assert f"{len(result.pairs)} pairs of {len(result.subjects)} subject" in text.splitlines()[0]
    assert f"Data: {folder_version(data)} (blobs)" in text and "Date: 2026-11-23" in text
    digest = next(row.contender.weights for row in result.rows if row.contender.name == "dilran")
    assert len(digest) == 12 and f"Weights: dilran {digest}" in text
    assert "crops of 128 pixels (published: whole images) and perceptual loss on vgg19 (published: vgg16-bn)" in text
    assert "Trained on another version of the data, so perhaps on these pairs: This network" in text
    assert "images of 64 pixels are too small for them: MS-SSIM" in text


@pytest.mark.parametrize("where", ["train", "validation", "test", "nowhere"])
def test_weights_that_saw_a_test_subject_are_not_passed_off_as_held_out(data, shipped, tmp_path, monkeypatch, where):
    shutil.copytree(shipped, tmp_path / "weights")
    monkeypatch.setattr(model.methods, "SHIPPED", tmp_path / "weights")
    splits = split_subjects(SUBJECTS, 0)
    seen = {split: [*who, splits["test"][0]] if split == where else who for split, who in splits.items()}
    training = TRAINING | ({} if where == "nowhere" else {"subjects": seen})
    for split in ("subject", "paper"):
        (tmp_path / "weights" / f"dilran-{split}" / "training.json").write_text(json.dumps(training))
    said = {
        "train": f"Not held out, so too good: trained on subject {splits['test'][0]}: This network, SFNN.",
        "nowhere": "Perhaps not held out, since the subjects of the training are not recorded: This network, SFNN.",
    }
    said["validation"] = said["train"]
    for split in ("subject", "paper"):
        competing = contenders("standard", Resources(split), ["dilran-sfnn", "average"], None)
        result = compare(data, "blobs", "standard", Resources(split), competing)
        told = [note for note in result.notes if "held out" in note]
        assert told == ([said[where]] if where in said and split == "subject" else [])
        assert ("the paper's split leaks" in output.markdown(result)) == (split == "paper")


def test_no_shipped_weights_saw_a_test_subject():
    for folder in (Path(model.methods.__file__).parent / "weights").glob("*-subject"):
        subjects = json.loads((folder / "training.json").read_text())["subjects"]
        assert not {"20", "33"} & {*subjects["train"], *subjects["validation"]}, folder.name


def test_whole_subjects_are_judged_and_never_one_of_the_training(data):
    pairs, expected = held_out_pairs(data, "subject")
    splits = split_subjects(SUBJECTS, 0)
    assert {pair.subject for pair in pairs} == set(splits["test"])
    assert len(pairs) == expected == sum(len(SUBJECTS[subject]) for subject in splits["test"])


def test_intervals_by_subject_need_three_subjects(made, data):
    papers = compare(data, "", "standard", Resources("paper"), contenders("standard", Resources(), ["average"], None))
    for result, known in ((made[0], False), (papers, True)):
        assert all((cell.subject_low is not None) == known for cell in result.summaries["average"].values())
        assert ("Intervals by subject" in output.html(result)) == known


def test_the_poster_protocol_sets_printed_beside_measured_on_the_papers_pairs(data, fusion, tmp_path):
    methods = ("--methods", "dilran-sfnn,msdra,maximum")
    done = fusion("table", "--protocol", "poster", "--data", data, *methods, "-o", "out")
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {pair["name"] for pair in table["pairs"]} == set(NAMES) & set(PAPER_TEST_PAIRS)
    assert table["reference"] == "dilran-sfnn"
    rows = markdown_rows((tmp_path / "out" / "table.md").read_text())
    means = {each["method"]: each for each in read_csv(tmp_path / "out" / "table.csv")}
    for index, (key, printed) in enumerate(PRINTED["dilran-sfnn"].items()):
        assert rows["Ours: SFNN, all losses"][2 * index] == f"{printed:.3f}"
        assert f"{float(means['dilran-sfnn'][key]):.3f}" in rows["Ours: SFNN, all losses"][2 * index + 1]
        assert float(means["msdra"][f"printed_{key}"]) == PRINTED["msdra"][key] and means["msdra"][key] == ""
        assert rows["Elementwise maximum"][2 * index] == ""
    assert rows["MSDRA"][:2] == ["14.528", "not run"]
    page = (tmp_path / "out" / "table.html").read_text()
    assert "Not in the poster" in page and "18.258" in page and "not run" in page
    assert f"{len(table['pairs'])} of the 20 test pairs" in page


def test_the_posters_figures_stand_beside_no_other_split(data, fusion, tmp_path):
    arguments = ("--protocol", "poster", "--split", "subject", "--data", data, "--methods", "dilran-sfnn,average")
    assert fusion("table", *arguments, "-o", "out").returncode == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert "18.258" not in text and "stand beside no other" in text


def test_published_weights_have_a_row_of_their_own(shared, data):
    path = shared / "weights" / "dilran_published.safetensors"
    resources = Resources(split="paper")
    competing = contenders("poster", resources, ["maximum"], path)
    result = compare(data, "blobs", "poster", resources, competing)
    assert [row.contender.name for row in result.ran] == ["published", "maximum"]
    assert result.rows[0].contender.weights == "614e40c0c1ed"
    assert any("outside the paper" in note for note in contenders("standard", Resources(), ["maximum"], path)[0].notes)


def test_a_method_that_fails_on_a_pair_keeps_its_row(data, monkeypatch):
    def refuse(a, b):
        raise InputError("too odd a size")

    broken = {"average": refuse, "maximum": lambda a, b: a}
    for name, fuse in broken.items():
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], load=lambda _, fuse=fuse: fuse))
    competing = contenders("standard", Resources(), ["average", "maximum", "laplacian"], None)
    result = compare(data, "blobs", "standard", Resources(), competing)
    reasons = {row.contender.name: row.reason for row in result.rows}
    assert reasons["average"] == "too odd a size" and reasons["laplacian"] == ""
    assert re.match("psnr is inf on pair", reasons["maximum"])
    with pytest.raises(InputError, match="no method ran; average: too odd a size"):
        compare(data, "blobs", "standard", Resources(), competing[:2])


def test_the_strategies_of_a_network_share_its_encodings_and_nothing_else(data, monkeypatch):
    names = ["dilran", "dilran-sfnn", "dilran-average", "maximum"]
    competing = contenders("standard", Resources(), names, None)
    alone = [compare(data, "blobs", "standard", Resources(), [each]).rows[0] for each in competing]
    encode, encoded = Fuser._encode, []
    monkeypatch.setattr(Fuser, "_encode", lambda *given: encoded.append(0) or encode(*given))
    told = []
    result = compare(data, "blobs", "standard", Resources(), competing, progress=lambda *each: told.append(each))
    assert len(encoded) == len(result.pairs) + len(result.pictures)  # of these for their weights once more
    assert [row.contender.name for row in result.rows] == names
    assert [row.values for row in result.rows] == [row.values for row in alone]
    assert told[0] == (0, 4 * len(result.pairs), f"{competing[0].title} and 2 more")
    assert told[-1][:2] == (4 * len(result.pairs),) * 2
    monkeypatch.setitem(STRATEGIES, "sfnn", lambda a, *_: a * np.nan)
    rows = compare(data, "blobs", "standard", Resources(), competing).rows
    assert [row.ran for row in rows] == [True, False, True, True] and "not finite" in rows[1].reason


def test_the_same_comparison_gives_the_same_files(made):
    result, folder = made
    again = replace(result)
    for name, make in zip(
        output.FILES, (output.markdown, output.means_csv, output.per_pair_csv, output.as_json, output.html), strict=True
    ):
        assert make(again) == (folder / name).read_bytes().decode(), name


def test_a_table_replaces_a_table_and_nothing_else(made, tmp_path, monkeypatch):
    result, _ = made
    target = tmp_path / "table"
    target.mkdir()
    output.write_table(result, target)
    output.write_table(replace(result, facts={"Date": "2027-01-01"}), target)
    assert "2027-01-01" in (target / "table.md").read_text()
    assert sorted(path.name for path in target.iterdir()) == sorted(output.FILES)
    before = (target / "table.md").read_bytes()

    def full_disk(path, *arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(target), "write_text", full_disk)
        with pytest.raises(InputError, match=r"cannot write .*: No space left"):
            output.write_table(replace(result, facts={}), target)
    assert (target / "table.md").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
    (target / "mine.txt").touch()
    with pytest.raises(InputError, match=r"holds mine\.txt"):
        output.write_table(result, target)


def test_bad_input_is_one_line_before_anything_is_computed(data, tmp_path, refused, monkeypatch):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.txt").touch()
    (tmp_path / "file").touch()
    for modality, name in (("CT", "16001"), ("MRI", "16002")):
        (tmp_path / "apart" / "CT-MRI" / modality).mkdir(parents=True)
        Image.new("L", (64, 64)).save(tmp_path / "apart" / "CT-MRI" / modality / f"{name}.png")
    monkeypatch.setitem(METHODS, "average", replace(METHODS["average"], load=lambda _: pytest.fail("too late")))
    quick = ("--methods", "average", "-o", "out")
    cases = {
        ("--data", "absent", *quick): "no such data folder: absent",
        ("--data", "apart", *quick): "no image in apart/CT-MRI has its partner",
        ("--data", data, "--methods", "average,best", "-o", "out"): "unknown method 'best'; choose one of dilran",
        ("--data", data, "--methods", "", "-o", "out"): "no method given",
        ("--data", data, "--protocol", "mine", *quick): "unknown protocol 'mine'",
        ("--data", data, "--split", "mine", *quick): "unknown split 'mine'",
        ("--data", data, "--methods", "average", "-o", "others"): "others holds notes.txt",
        ("--data", data, "--methods", "average", "-o", "file"): "file is a file",
        ("--data", data, "--methods", "average", "-o", "file/table"): "cannot write file/table: ",
        ("--data", data, "--published", "absent", *quick): "no such weights file: absent",
        ("--split", "paper", *quick): "the phantom holds none of the paper's test pairs",
    }
    for arguments, words in cases.items():
        assert words in refused("table", *arguments), arguments
    assert not (tmp_path / "out").exists()


def test_without_data_it_takes_the_folder_data_or_else_the_phantom(data, fusion, tmp_path, monkeypatch):
    import pipelines.table
    from components.ingest.phantom import PhantomConfig

    monkeypatch.setattr(pipelines.table, "PhantomConfig", partial(PhantomConfig, subjects=3, slices=2, size=64))
    done = fusion("table", "--methods", "average", "-o", "out")
    assert (done.returncode, done.stderr) == (0, "no --data given: comparing on the phantom\n")
    assert "no image shows a patient" in (tmp_path / "out" / "table.md").read_text()
    (tmp_path / "data").symlink_to(data)
    done = fusion("table", "--methods", "average", "-o", "out")
    assert (done.returncode, done.stderr) == (0, "no --data given: comparing on data\n")
    assert f"Data: {folder_version(data)} (data)" in (tmp_path / "out" / "table.md").read_text()


def test_what_differs_in_training_is_told():
    published = {"epochs": 100, "batch": 4, "crop": 0, "learning_rate": 1e-4, "perceptual": "vgg16-bn", "seed": 3407}
    assert training_note(published, "dilran") == "trained here with the published settings"
    assert training_note(published | {"perceptual": "none"}, "dilran-mse") == training_note(published, "dilran")
    other = training_note(published | {"crop": 96, "epochs": 30}, "dilran")
    assert other.endswith("with 30 epochs (published: 100) and crops of 96 pixels (published: whole images)")
    assert training_note(published, "msrpan").startswith("trained here with 100 epochs, batches of 4, whole images")
    assert training_note({}, "dilran") == ""
