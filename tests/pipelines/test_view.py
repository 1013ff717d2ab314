"""`fusion view`: what the page holds of images, folders and volumes, and one line for whatever is wrong."""

import base64
import io
import json
import re

import nibabel
import numpy as np
import pytest
from PIL import Image

import pipelines.view
import pipelines.view_sources
from model.images import read_image
from tests.scans import FRAME, axial, head, series

QUICK = ("--model", "model", "--no-open")


def held(path):
    """What the page's program is given."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="view-scene">(.*?)</script>', text, re.S)[1])


def image(address):
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))))


def whole(address):
    """The levels of an image of two bytes."""
    stored = image(address).astype(int)
    return 256 * stored[..., 0] + stored[..., 1]


def test_the_page_holds_both_sources_and_what_fuse_makes_of_them(folder, fusion):
    assert fusion("fuse", "ct.png", "mr.png", "-o", "fused.png", "--model", "model").returncode == 0
    done = fusion("view", "ct.png", "mr.png", *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wrote view.html: 1 pair; open it in a browser\n"
    scene = held(folder / "view.html")
    (pair,) = scene["pairs"]
    assert (pair["name"], scene["sides"]["a"]["label"], scene["sides"]["b"]["label"]) == ("ct", "ct", "mr")
    assert np.array_equal(image(pair["a"]), np.array(Image.open(folder / "ct.png")))
    assert np.array_equal(image(pair["b"]), np.array(Image.open(folder / "mr.png")))
    names = [method["name"] for method in scene["methods"]]
    assert names == ["network local-saliency", "average", "maximum", "laplacian"] and set(pair["fused"]) == set(names)
    fused = np.array(Image.open(folder / "fused.png"))
    assert np.array_equal(image(pair["fused"]["network local-saliency"]), fused)
    largest = np.maximum(image(pair["a"]), image(pair["b"]))
    assert np.array_equal(image(pair["fused"]["maximum"]), largest)
    assert pair["shares"]["average"] == 0.5
    chosen = image(pair["shares"]["maximum"])
    assert ((chosen == 255) == (image(pair["a"]) > image(pair["b"]))).all()
    assert image(pair["shares"]["network local-saliency"]).shape == fused.shape
    assert set(pair["shares"]) == {"network local-saliency", "average", "maximum"}


def test_strategies_and_methods_are_those_named(folder, fusion):
    done = fusion("view", "ct.png", "mr.png", *QUICK, "--strategy", "sfnn,fer", "--methods", "dwt,guided-filter")
    assert done.returncode == 0, done.stderr
    scene = held(folder / "view.html")
    titles = [method["title"] for method in scene["methods"]]
    assert titles == ["Network, SFNN", "Network, FER", "Wavelet transform", "Guided filter"]
    (pair,) = scene["pairs"]
    assert set(pair["shares"]) == {"network sfnn"} and 0 < pair["shares"]["network sfnn"] < 1
    assert all(len(values) == 3 for values in pair["values"].values())
    assert fusion("view", "ct.png", "mr.png", *QUICK, "--methods", "").returncode == 0
    assert len(held(folder / "view.html")["methods"]) == 1


def test_the_same_input_gives_the_same_page_and_no_address_of_elsewhere(folder, fusion):
    for name in ("one.html", "two.html"):
        assert fusion("view", "ct.png", "mr.png", "-o", name, *QUICK).returncode == 0
    text = (folder / "one.html").read_text()
    assert text == (folder / "two.html").read_text()
    assert "http:" not in text and "https:" not in text and str(folder) not in text


def test_colour_is_shown_in_the_source_and_put_back_into_the_fused_images(folder, fusion):
    colours = np.random.default_rng(7).integers(0, 256, (18, 20, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "pet.png")
    assert fusion("fuse", "pet.png", "mr.png", "-o", "fused.png", "--model", "model").returncode == 0
    assert fusion("view", "pet.png", "mr.png", *QUICK).returncode == 0
    (pair,) = held(folder / "view.html")["pairs"]
    assert np.array_equal(image(pair["a"]), colours)
    assert np.array_equal(image(pair["fused"]["network local-saliency"]), np.array(Image.open(folder / "fused.png")))


def test_a_model_of_normalised_images_shows_and_measures_what_it_saw(folder, fusion):
    """Before normalisation, weights estimated and measures taken would be of images that nothing was fused from."""
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(config | {"levels": [[0, 0.5], [0.2, 0.8]]}))
    assert fusion("fuse", "ct.png", "mr.png", "-o", "fused.png", "--model", "model").returncode == 0
    assert fusion("view", "ct.png", "mr.png", *QUICK, "--methods", "maximum").returncode == 0
    scene = held(folder / "view.html")
    (pair,) = scene["pairs"]
    windows = [(scene["sides"][side]["black"], scene["sides"][side]["white"]) for side in "ab"]
    assert windows == [(0, 127.5), (pytest.approx(51), pytest.approx(204))]
    sources = [np.array(Image.open(folder / f"{name}.png")) for name in ("ct", "mr")]
    assert all(np.array_equal(image(pair[side]), levels) for side, levels in zip("ab", sources, strict=True))
    fused = np.array(Image.open(folder / "fused.png"))
    assert np.array_equal(image(pair["fused"]["network local-saliency"]), fused)
    seen = [
        ((levels - black) / (white - black)).clip(0, 1) for levels, (black, white) in zip(sources, windows, strict=True)
    ]
    assert np.array_equal(image(pair["fused"]["maximum"]), np.rint(255 * np.maximum(*seen)).astype(np.uint8))
    assert "Normalised as the network&#39;s training images were: ct 0 to 127.5, mr 51 to 204" in (
        (folder / "view.html").read_text()
    )


def test_sixteen_bits_stay_sixteen(folder, fusion):
    levels = np.random.default_rng(7).integers(0, 65536, (18, 20), dtype=np.uint16)
    Image.fromarray(levels).save(folder / "deep.png")
    assert fusion("fuse", "deep.png", "mr.png", "-o", "fused.png", "--model", "model").returncode == 0
    assert fusion("view", "deep.png", "mr.png", *QUICK).returncode == 0
    scene = held(folder / "view.html")
    (pair,) = scene["pairs"]
    assert [scene["sides"][side]["top"] for side in ("a", "b", "fused")] == [65535, 255, 65535]
    assert np.array_equal(whole(pair["a"]), levels)
    fused = (read_image(folder / "fused.png").luma[0].numpy() * 65535).round().astype(int)
    assert np.abs(whole(pair["fused"]["network local-saliency"]) - fused).max() <= 1


@pytest.fixture
def folders(folder):
    """Five pairs of images in two folders, and one image without a partner in each."""
    for place, other in (("CT", "ct.png"), ("MRI", "mr.png")):
        (folder / place).mkdir()
        for number in (2, 10, 1, 3, 4):
            (folder / place / f"{number}.png").write_bytes((folder / other).read_bytes())
        (folder / place / f"only-{place}.png").write_bytes((folder / other).read_bytes())
        (folder / place / "notes.txt").write_text("no image")
    return folder


def test_the_images_of_two_folders_pair_by_name(folders, fusion):
    done = fusion("view", "CT", "MRI", "-o", "view.html", *QUICK, "--methods", "")
    assert done.returncode == 0, done.stderr
    scene = held(folders / "view.html")
    assert [pair["name"] for pair in scene["pairs"]] == ["1", "2", "3", "4", "10"]
    assert [scene["sides"][side]["label"] for side in ("a", "b")] == ["CT", "MRI"]
    assert "2 images without a partner of the same name are left out." in (folders / "view.html").read_text()
    assert fusion("view", "CT", "MRI", *QUICK, "--methods", "", "--pairs", "2").returncode == 0
    assert [pair["name"] for pair in held(folders / "view.html")["pairs"]] == ["2", "4"]
    assert "2 of 5 pairs, spread evenly." in (folders / "view.html").read_text()


@pytest.fixture
def volumes(folder):
    """A head of four slices as two DICOM series that name their patient."""

    def told(made, _):
        made.PatientName, made.PatientID, made.StudyDate = "Duck^Donald", "DUCK-77", "19340609"
        made.InstitutionName = "Duckburg General"

    ct, mr = head(slices=4)
    for name, pixels, modality in (("first", ct, "CT"), ("second", mr, "MR")):
        series(folder / name, pixels, axial(4), modality, told)
    return ct, mr


def test_volumes_are_shown_slice_by_slice_in_their_units(folder, volumes, fusion):
    done = fusion("view", "first", "second", *QUICK, "--methods", "average", "--pairs", "3")
    assert done.returncode == 0, done.stderr
    text = (folder / "view.html").read_text()
    scene = held(folder / "view.html")
    side = scene["sides"]["a"]
    assert (side["label"], side["unit"], side["black"], side["white"]) == ("CT", "HU", 0, 80)
    assert len(scene["pairs"]) == 3 and "3 of 4 slices" in text
    for pair in scene["pairs"]:
        number = int(pair["name"].removeprefix("Slice ")) - 1
        values = side["low"] + whole(pair["a"]) / side["top"] * (side["high"] - side["low"])
        assert np.abs(values - volumes[0][number]).max() < 1e-6
    assert (scene["aspect"], scene["millimetres"]) == (1.0, 3.6)


def test_no_patient_is_named_by_the_page(folder, volumes, fusion):
    assert fusion("view", "first", "second", *QUICK, "--methods", "average").returncode == 0
    text = (folder / "view.html").read_text()
    for secret in ("Donald", "DUCK-77", "19340609", "Duckburg", FRAME):
        assert secret not in text


def test_volumes_fuse_as_fuse_fuses_them(folder, volumes, fusion):
    choice = ("--model", "model", "--window", "30/60")
    assert fusion("fuse", "first", "second", "-o", "fused.nii.gz", *choice).returncode == 0
    assert fusion("view", "first", "second", *choice, "--no-open", "--methods", "average").returncode == 0
    fused = nibabel.load(folder / "fused.nii.gz").get_fdata().T
    for pair in held(folder / "view.html")["pairs"]:
        expected = fused[int(pair["name"].removeprefix("Slice ")) - 1] * 255
        assert np.abs(image(pair["fused"]["network local-saliency"]) - expected).max() <= 1


def test_the_browser_opens_the_page_where_there_is_a_screen(folder, fusion, monkeypatch):
    opened = []
    monkeypatch.setattr(pipelines.view.webbrowser, "open", lambda address: bool(opened.append(address)) or True)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    asked = ("view", "ct.png", "mr.png", "--model", "model", "--methods", "")
    assert fusion(*asked).stdout.endswith("open it in a browser\n")
    monkeypatch.setenv("DISPLAY", ":9")
    assert fusion(*asked, "--no-open").stdout.endswith("open it in a browser\n")
    assert opened == []
    assert fusion(*asked).stdout == "wrote view.html: 1 pair\n"
    assert opened == [(folder / "view.html").as_uri()]


def test_bad_input_to_view_is_one_line_and_writes_nothing(folders, refused, monkeypatch):
    folder = folders
    Image.new("L", (20, 20)).save(folder / "other.png")
    Image.new("RGB", (20, 18), (9, 90, 200)).save(folder / "pet.png")
    (folder / "empty").mkdir()
    (folder / "twice").mkdir()
    for name in ("1.png", "1.bmp"):
        Image.new("L", (20, 18)).save(folder / "twice" / name)
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    for arguments, words in {
        ("nowhere.png", "mr.png"): "no such image: nowhere.png",
        ("ct.png", "other.png"): "ct.png is 20x18, other.png is 20x20",
        ("pet.png", "pet.png"): "both in colour",
        ("CT", "mr.png"): "mr.png is no folder, the other one is",
        ("CT", "empty"): "no image in CT has one of the same name in empty",
        ("twice", "CT"): "twice has 1 twice",
        ("CT", "MRI", "--pairs", "0"): "--pairs is 0",
        ("ct.png", "mr.png", "--model", ""): "the model's name is empty",
        ("ct.png", "mr.png", "--methods", "best"): "unknown method 'best'; choose one of dilran",
        ("ct.png", "mr.png", "--strategy", "best"): "unknown fusion strategy 'best'; choose one of",
        ("ct.png", "mr.png", "--strategy", ""): "no fusion strategy given",
        ("ct.png", "mr.png", "--model", "empty"): "empty holds no model",
        ("ct.png", "mr.png", "--window", "40/80"): "--window is for volumes",
        ("ct.png", "mr.png", "-o", "page.png"): "end its name in .html",
        ("ct.png", "mr.png", "-o", "away/page.html"): "there is no folder away",
    }.items():
        assert words in refused("view", "--no-open", *(() if "--model" in arguments else QUICK[:2]), *arguments)
    monkeypatch.setattr(pipelines.view_sources, "MAX_PIXELS", 4 * 18 * 20 * 4)
    assert "fewer --pairs" in refused("view", "CT", "MRI", *QUICK, "--methods", "")
    assert before == {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
