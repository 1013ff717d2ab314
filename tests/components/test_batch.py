"""A batch: every pair fused as `fusion fuse` does, measured, summed up; kept, skipped, refused and resumed as told."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.batch.chosen import choose_model
from components.batch.fusing import CHUNK, fuse_pairs, parse_measures
from components.batch.journal import Journal
from components.batch.pairs import Fault, Pair, find_pairs
from components.batch.places import FolderPlace, open_place
from components.batch.steps import check_step, fuse_step, report_step
from components.ingest.phantom import PhantomConfig
from components.validate.drift import summarise
from model.errors import InputError
from model.fuser import Fuser, FuserConfig, weights_sha256
from model.images import read_image
from model.metrics import measure
from model.network import FusionNetwork
from pipelines.fuse import fuse_files
from tests.datasets import write_image, write_tree
from tests.registered import make_folders, register

ROOT = Path(__file__).resolve().parents[2]
PHANTOM = PhantomConfig(subjects=1, slices=1, size=64)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model folder that fuses fast."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    Fuser(FusionNetwork(8), FuserConfig("average", "image")).save(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    """Three CT-MRI pairs in grey and two PET-MRI pairs in colour, below a folder named after a patient."""
    return write_tree(tmp_path / "DOE^JOHN")


@pytest.fixture
def batch(tmp_path, model):
    """Runs a batch, all three steps; gives its manifest."""
    runs = iter(range(99))

    def run(source, destination, collection="CT-MRI", model=model, measures="none", on_error="skip", strategy=""):
        plan, chosen, fused, summary = (tmp_path / f"run-{next(runs)}" for _ in range(4))
        asked = str(source), str(destination), collection, str(model), strategy, measures, on_error
        check_step(*asked, PHANTOM, plan, chosen)
        fuse_step(plan, chosen, str(destination), fused, "cpu")
        return report_step(plan, chosen, fused, str(destination), summary, "c0ffee", "0123")

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden or not."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fused_images(folder: Path, collection: str = "CT-MRI") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / collection / "fused").iterdir()}


class TestPairs:
    @pytest.mark.parametrize("above", ["CT-MRI/CT CT-MRI/MRI", "ct-mri/ct ct-mri/mri", "CT MRI", "ct mri"])
    def test_images_pair_by_name_in_either_layout(self, above):
        ct, mri = above.split()
        names = [
            f"{ct}/16002.png",
            f"{mri}/16002.tif",
            f"{ct}/2001.png",
            f"{mri}/2001.png",
            "notes.txt",
            f"{ct}/Thumbs.db",
        ]
        pairs, faults = find_pairs(names, "CT-MRI", "here")
        assert pairs == [
            Pair("2001", f"{ct}/2001.png", f"{mri}/2001.png"),
            Pair("16002", f"{ct}/16002.png", f"{mri}/16002.tif"),
        ]
        assert not faults
        assert [pair.subject for pair in pairs] == ["2", "16"]

    def test_an_image_alone_and_two_of_one_name_are_faults(self):
        names = ["CT/1.png", "CT/2.png", "CT/2.tif", "MRI/2.png", "MRI/3.png"]
        pairs, faults = find_pairs(names, "CT-MRI", "here")
        assert not pairs
        assert faults == [
            Fault("1", "no MRI image has this name"),
            Fault("2", "CT/2.png and CT/2.tif have one name"),
            Fault("3", "no CT image has this name"),
        ]

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (["CT-MRI/CT/1.png", "CT-MRI/MRI/1.png", "CT/1.png", "MRI/1.png"], "CT-MRI/CT and CT both"),
            (["CT/1.png"], "here holds no MRI images; it should hold CT-MRI/CT and CT-MRI/MRI, or CT and MRI"),
            (["PET-MRI/MRI/1.png"], "here holds no CT images"),
        ],
    )
    def test_a_source_that_holds_no_such_collection_is_refused(self, names, words):
        with pytest.raises(InputError, match=words):
            find_pairs(names, "CT-MRI", "here")


class TestFused:
    @pytest.mark.parametrize("collection", ["CT-MRI", "PET-MRI"])
    def test_every_image_is_what_fusion_fuse_writes_colour_and_depth_kept(
        self, tmp_path, images, model, batch, collection
    ):
        first, _, second = collection.partition("-")
        if collection == "CT-MRI":
            deep = np.random.default_rng(1).integers(0, 65536, (40, 48), dtype=np.uint16)
            for modality in (first, second):
                Image.fromarray(deep).save(images / collection / modality / "777001.png")
        batch(images, tmp_path / "out", collection)
        fused = fused_images(tmp_path / "out", collection)
        assert set(fused) == {path.name for path in (images / collection / first).iterdir()}
        for name, content in fused.items():
            one = tmp_path / name
            sources = [images / collection / each / name for each in (first, second)]
            fuse_files(*sources, one, str(model), None, None, tmp_path)
            assert content == one.read_bytes(), name
        modes = {name: Image.open(tmp_path / name).mode for name in fused}
        assert set(modes.values()) == ({"L", "I;16"} if collection == "CT-MRI" else {"RGB"})

    def test_the_measures_are_those_of_each_pair(self, tmp_path, images, model, batch):
        batch(images, tmp_path / "out", measures="qabf,en,psnr")
        (header, *rows) = csv.reader((tmp_path / "out" / "CT-MRI" / "measures.csv").open())
        assert header == ["pair", "fused", "width", "height", "qabf", "en", "psnr"]
        assert [row[0] for row in rows] == ["2004", "2005", "16003"]
        fuser = Fuser.load(model)
        for name, _, _, _, *values in rows:
            a, b = (read_image(images / "CT-MRI" / each / f"{name}.png").luma[None] for each in ("CT", "MRI"))
            found = measure(a, b, fuser.fuse(a, b), ["qabf", "en", "psnr"])
            expected = [float(found["qabf"]), float(found["en"]), float(found["psnr"]["mean"])]
            assert [float(value) for value in values] == pytest.approx(expected, abs=1e-5)
        told = json.loads((tmp_path / "out" / "CT-MRI" / "measures.json").read_text())
        assert told["measures"][0]["mean"] == pytest.approx(np.mean([float(row[4]) for row in rows]), abs=1e-5)
        assert told["pairs"]["16003"]["en"] == float(rows[2][5])

    def test_a_measure_that_an_image_is_too_small_for_is_left_empty(self, tmp_path, batch):
        for modality in ("CT", "MRI"):
            write_image(tmp_path / "in" / modality / "1.png", 1, modality, (8, 8))
        batch(tmp_path / "in", tmp_path / "out", measures="ssim,en")
        (row,) = list(csv.DictReader((tmp_path / "out" / "CT-MRI" / "measures.csv").open()))
        assert row["ssim"] == "" and float(row["en"]) > 0

    def test_s3_gives_the_same_as_a_folder(self, tmp_path, images, batch, client, remote):
        for name, content in contents(images).items():
            client.put_object(Bucket=remote.bucket, Key=f"ward/7/{name}", Body=content)
        batch(images, tmp_path / "out")
        manifest = batch(f"s3://{remote.bucket}/ward/7/", f"s3://{remote.bucket}/results")
        assert manifest["source"] == f"s3://{remote.bucket}/ward/7"
        keys = [each["Key"] for each in client.list_objects_v2(Bucket=remote.bucket, Prefix="results/")["Contents"]]
        for name, content in fused_images(tmp_path / "out").items():
            there = client.get_object(Bucket=remote.bucket, Key=f"results/CT-MRI/fused/{name}")["Body"].read()
            assert there == content
        summary = {"batch.json", "measures.csv", "measures.json", "drift.json", "report.html", "manifest.json"}
        assert {key.removeprefix("results/CT-MRI/") for key in keys if key.count("/") == 2} == summary
        again = batch(f"s3://{remote.bucket}/ward/7", f"s3://{remote.bucket}/results")
        assert again["pairs"] == {"fused": 3, "kept": 3, "skipped": 0}

    def test_the_manifest_names_model_images_and_code_but_no_folder(self, tmp_path, images, model, batch):
        (images / "CT-MRI" / "MRI" / "2005.png").write_bytes(b"no image")
        manifest = batch(images, tmp_path / "out", measures="en")
        assert manifest["model"]["weights_sha256"] == weights_sha256(model)
        assert manifest["model"]["config"]["strategy"] == "average"
        assert manifest["code"] == {"version": "0.1.0", "git_commit": "c0ffee", "code_version": "0123"}
        assert manifest["source"] == "a folder"
        assert {each["pair"] for each in manifest["images"]} == {"2004", "16003"}
        for name, content in contents(tmp_path / "out").items():
            assert b"JOHN" not in content, name
            assert str(tmp_path).encode() not in content, name

    def test_the_strategy_of_choice_is_another_configuration(self, tmp_path, images, batch):
        manifest = batch(images, tmp_path / "out", strategy="maximum")
        assert manifest["model"]["config"]["strategy"] == "maximum"
        with pytest.raises(InputError, match="results by other settings; give another destination"):
            batch(images, tmp_path / "out")

    def test_the_phantom_needs_no_source(self, tmp_path, batch):
        manifest = batch("phantom", tmp_path / "out")
        assert manifest["source"] == "phantom" and manifest["pairs"]["fused"] == 1
        assert 'src="data:image/png;base64,' in (tmp_path / "out" / "CT-MRI" / "report.html").read_text()


class TestFaults:
    @pytest.fixture
    def faulty(self, images):
        """Three faults beside the one pair that is whole."""
        (images / "CT-MRI" / "CT" / "2004.png").write_bytes((images / "CT-MRI" / "CT" / "2004.png").read_bytes()[:99])
        write_image(images / "CT-MRI" / "MRI" / "2005.png", 1, "MRI", (16, 24))
        write_image(images / "CT-MRI" / "MRI" / "9001.png", 1, "MRI")
        return images

    def test_a_pair_that_cannot_be_fused_is_skipped_and_named(self, tmp_path, faulty, batch):
        manifest = batch(faulty, tmp_path / "out")
        assert manifest["pairs"] == {"fused": 1, "kept": 0, "skipped": 3}
        problems = {fault["pair"]: fault["problem"] for fault in manifest["skipped"]}
        assert problems["2004"].startswith("CT-MRI/CT/2004.png is a damaged image file")
        assert problems["2005"].startswith("CT-MRI/CT/2005.png is 32x32, CT-MRI/MRI/2005.png is 24x16; resample")
        assert problems["9001"] == "no CT image has this name"
        assert set(fused_images(tmp_path / "out")) == {"16003.png"}
        page = (tmp_path / "out" / "CT-MRI" / "report.html").read_text()
        assert "3 pairs could not be fused" in page and "24x16" in page

    def test_or_it_stops_the_run(self, tmp_path, faulty, batch):
        with pytest.raises(InputError, match=r"^pair 9001: no CT image has this name; mend it, or run with"):
            batch(faulty, tmp_path / "out", on_error="stop")
        (faulty / "CT-MRI" / "MRI" / "9001.png").unlink()
        with pytest.raises(InputError, match=r"^pair 2004: .* damaged"):
            batch(faulty, tmp_path / "out", on_error="stop")
        assert not (tmp_path / "out" / "CT-MRI" / "manifest.json").exists()

    def test_a_batch_without_one_whole_pair_is_refused(self, tmp_path, batch):
        for modality in ("CT", "MRI"):
            (tmp_path / "in" / modality).mkdir(parents=True)
            (tmp_path / "in" / modality / "1.png").write_bytes(b"")
        with pytest.raises(InputError, match=r"none of 1 pairs could be fused: 1: CT/1.png is not an image"):
            batch(tmp_path / "in", tmp_path / "out")

    def test_two_in_colour_are_a_fault(self, tmp_path, batch):
        for modality in ("CT", "MRI"):
            write_image(tmp_path / "in" / modality / "1.png", len(modality), "PET")
            write_image(tmp_path / "in" / modality / "2.png", len(modality), "MRI")
        (fault,) = batch(tmp_path / "in", tmp_path / "out")["skipped"]
        assert fault["problem"].startswith("CT/1.png and MRI/1.png are both in colour")


class TestAgain:
    def test_what_is_done_already_is_kept_and_only_the_rest_is_fused(self, tmp_path, images, batch):
        first = batch(images, tmp_path / "out", measures="en")
        before = {path: path.stat().st_ino for path in (tmp_path / "out" / "CT-MRI" / "fused").iterdir()}
        write_image(images / "CT-MRI" / "CT" / "2004.png", 5, "CT")
        for modality in ("CT", "MRI"):
            write_image(images / "CT-MRI" / modality / "2006.png", 6, modality)
        (tmp_path / "out" / "CT-MRI" / "fused" / "2005.png").unlink()
        again = batch(images, tmp_path / "out", measures="en")
        assert again["pairs"] == {"fused": 4, "kept": 1, "skipped": 0}
        after = {path: path.stat().st_ino for path in (tmp_path / "out" / "CT-MRI" / "fused").iterdir()}
        assert {path.name for path, node in after.items() if before.get(path) == node} == {"16003.png"}
        digests = [{each["pair"]: each["sha256"] for each in manifest["images"]} for manifest in (first, again)]
        assert digests[0]["16003"] == digests[1]["16003"] and digests[0]["2005"] == digests[1]["2005"]
        assert digests[0]["2004"] != digests[1]["2004"]

    def test_more_measures_than_before_are_measured(self, tmp_path, images, batch):
        batch(images, tmp_path / "out", measures="en")
        assert batch(images, tmp_path / "out", measures="sd,en")["pairs"]["kept"] == 0
        assert batch(images, tmp_path / "out", measures="sd")["pairs"]["kept"] == 3
        assert "sd" in (tmp_path / "out" / "CT-MRI" / "measures.csv").read_text().splitlines()[0]

    def test_a_damaged_note_of_progress_costs_work_and_no_more(self, tmp_path, images, batch):
        batch(images, tmp_path / "out")
        (note,) = (tmp_path / "out" / "CT-MRI" / "progress").iterdir()
        note.write_bytes(note.read_bytes()[:50])
        assert batch(images, tmp_path / "out")["pairs"] == {"fused": 3, "kept": 0, "skipped": 0}
        assert batch(images, tmp_path / "out")["pairs"]["kept"] == 3

    def test_two_collections_share_a_destination(self, tmp_path, images, batch):
        for _ in range(2):
            for collection, count in (("CT-MRI", 3), ("PET-MRI", 2)):
                assert batch(images, tmp_path / "out", collection)["pairs"]["fused"] == count

    def test_another_models_results_are_refused_and_stay(self, tmp_path, images, model, batch):
        batch(images, tmp_path / "out")
        before = contents(tmp_path / "out")
        other = tmp_path / "other"
        torch.manual_seed(1)
        Fuser(FusionNetwork(8), FuserConfig("average", "image")).save(other)
        words = (
            f"holds CT-MRI results by another model .weights {weights_sha256(model)[:12]}.; give another destination"
        )
        with pytest.raises(InputError, match=words):
            batch(images, tmp_path / "out", model=other)
        assert contents(tmp_path / "out") == before

    def test_images_of_nobody_knows_which_model_are_refused_and_stay(self, tmp_path, images, batch):
        write_image(tmp_path / "out" / "CT-MRI" / "fused" / "2004.png", 1, "MRI")
        before = contents(tmp_path / "out")
        with pytest.raises(InputError, match=r"holds images in CT-MRI/fused and no batch.json"):
            batch(images, tmp_path / "out")
        assert contents(tmp_path / "out") == before


# Killed with an image half-written, after some chunks were.
KILLED = """
import os, signal, sys, threading
from pathlib import Path
from components.batch import places
from pipelines.cli import main

whole, count, lock = places.write_atomically, 0, threading.Lock()

def write(path, fill):
    global count
    with lock:
        count += path.suffix == ".png"
        if count > 25:
            path.with_name(f".{path.name}.abc{path.suffix}").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    whole(path, fill)

places.write_atomically = write
main()
"""


def test_killed_it_goes_on_where_it_was(tmp_path, model, batch):
    count = 5 * CHUNK
    for number in range(count):
        for modality in ("CT", "MRI"):
            write_image(tmp_path / "in" / modality / f"{number + 1}001.png", number, modality, (16, 16))
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, "batch", str(tmp_path / "in"), str(out), "--model", str(model)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--measures", "none"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "CT-MRI" / "manifest.json").exists()
    assert list((out / "CT-MRI" / "fused").glob(".*"))
    for path in (out / "CT-MRI" / "fused").glob("[0-9]*.png"):
        Image.open(path).load()
    assert batch(tmp_path / "in", out)["pairs"] == {"fused": count, "kept": 3 * CHUNK, "skipped": 0}
    assert not [name for name in contents(out) if "/." in name]
    batch(tmp_path / "in", tmp_path / "whole")
    assert fused_images(out) == fused_images(tmp_path / "whole")


def test_few_pairs_are_in_memory_however_many_there_are(tmp_path, model):
    class Counting(FolderPlace):
        fetched, most = 0, 0

        def fetch(self, name, scratch):
            Counting.fetched += name.startswith("CT/")
            Counting.most = max(Counting.most, Counting.fetched - written())
            return super().fetch(name, scratch)

    def written():
        return sum(1 for _ in (tmp_path / "out" / "CT-MRI" / "fused").glob("[0-9]*.png"))

    for modality in ("CT", "MRI"):
        write_image(tmp_path / "in" / modality / "one.png", 1, modality, (8, 8))
    pairs = []
    for number in range(10 * CHUNK):
        for modality in ("CT", "MRI"):
            shutil.copy(tmp_path / "in" / modality / "one.png", tmp_path / "in" / modality / f"{number}.png")
        pairs.append(Pair(str(number), f"CT/{number}.png", f"MRI/{number}.png"))
    journal = Journal(FolderPlace(tmp_path / "out"), "CT-MRI", {"weights_sha256": "0"})
    done = fuse_pairs(pairs, Counting(tmp_path / "in"), journal, Fuser.load(model), ())
    assert [row["pair"] for row in done.rows] == [pair.name for pair in pairs]
    assert Counting.fetched == 10 * CHUNK and Counting.most <= 6 * CHUNK


class TestPlaces:
    @pytest.mark.parametrize("address", ["", "http://host/images", "gs://bucket/x", "s3://", "s3://b!/x"])
    def test_only_folders_and_s3_are_places(self, address):
        with pytest.raises(InputError, match=r"give (a folder or )?s3://bucket/prefix"):
            open_place(address)

    def test_unknown_measures_and_choices_are_refused(self, tmp_path, images, batch):
        assert parse_measures("none") == () and parse_measures("default,en,nmi")[-1] == "nmi"
        with pytest.raises(InputError, match="unknown measure 'nonsense'"):
            batch(images, tmp_path / "out", measures="en,nonsense")
        with pytest.raises(InputError, match="unknown on_error 'ask'; choose one of skip, stop"):
            batch(images, tmp_path / "out", on_error="ask")
        with pytest.raises(InputError, match="unknown fusion strategy 'best'"):
            batch(images, tmp_path / "out", strategy="best")
        with pytest.raises(InputError, match="unknown collection"):
            batch(images, tmp_path / "out", collection="CT")
        assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_a_registered_model_is_pinned_and_its_data_compared(tmp_path, batch, monkeypatch):
    import pandas as pd

    for subject in range(1, 7):
        for slice_ in (1, 2):
            for modality in ("CT", "MRI"):
                write_image(tmp_path / "in" / modality / f"{subject}00{slice_}.png", 9 * subject + slice_, modality)
    batch(tmp_path / "in", tmp_path / "first")
    notes = (tmp_path / "first" / "CT-MRI" / "progress").iterdir()
    rows = [json.loads(line) for note in notes for line in note.read_text().splitlines()]
    table = pd.DataFrame(
        {"readable": True, "modality": modality, "subject": row["subject"]} | statistics
        for row in rows
        for modality, statistics in zip(("CT", "MRI"), row["statistics"], strict=True)
    )
    folders = make_folders(tmp_path / "made")
    folders.validation.write_text(json.dumps({"statistics": {"collection": "CT-MRI", "modalities": summarise(table)}}))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    made = register(folders, uri, "ct-mri")
    same = batch(tmp_path / "in", tmp_path / "same", model="models:/ct-mri@champion")
    assert (same["model"]["asked"], same["model"]["uri"]) == ("models:/ct-mri@champion", "models:/ct-mri/1")
    assert same["model"]["weights_sha256"] == weights_sha256(folders.model)
    assert same["model"]["learned_from"]["dataset_version"].endswith(".dir") and made.version == "1"
    assert same["drift"] == {"compared_with": "ct-mri version 1", "missing": "", "drifted": 0}
    for path in (tmp_path / "in" / "CT").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 4).save(path)
    darker = batch(tmp_path / "in", tmp_path / "darker", model="models:/ct-mri/1")
    assert darker["drift"]["drifted"] >= 1
    told = json.loads((tmp_path / "darker" / "CT-MRI" / "drift.json").read_text())
    drifted = {(each["modality"], each["statistic"]) for each in told["findings"] if each["drifted"]}
    assert ("CT", "mean") in drifted and not [modality for modality, _ in drifted if modality == "MRI"]
    with pytest.raises(InputError, match="no alias challenger of ct-mri; it has champion"):
        choose_model("models:/ct-mri@challenger", "", "CT-MRI", tmp_path / "none", uri)
