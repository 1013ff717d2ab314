"""`fusion fuse`: the published figures, colour, depth, and one line for whatever is wrong with the input."""

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import pipelines.fuse
from model.images import join_colour, split_colour


@pytest.fixture
def colour(folder):
    """An RGB image of the pair's size."""
    levels = np.random.default_rng(7).integers(0, 256, (18, 20, 3), dtype=np.uint8)
    Image.fromarray(levels).save(folder / "pet.png")
    return levels


def test_the_published_weights_give_the_published_images(shared, tmp_path, fusion):
    reference = np.load(shared / "vectors" / "reference_fused.npz")
    weights = shared / "weights" / "dilran_published.safetensors"
    assert fusion("weights", "convert", weights, "-o", "published").returncode == 0
    names = sorted(name for name in reference if name.isdigit())[:2]
    assert names
    for name, model in zip(names, (weights, "published"), strict=True):
        pair = [shared / "atlas" / "CT-MRI" / kind / f"{name}.png" for kind in ("CT", "MRI")]
        choices = ("--strategy", "sfnn", "--batchnorm", "image")
        done = fusion("fuse", *pair, "-o", f"{name}.png", "--model", model, *choices)
        assert done.returncode == 0, done.stderr
        fused = np.array(Image.open(tmp_path / f"{name}.png")).astype(int)
        assert (np.abs(fused - reference[name]) <= 1).mean() >= 0.999


def test_fuse_writes_the_fused_image_at_the_size_of_its_sources(folder, fusion):
    done = fusion("fuse", "ct.png", "mr.png", "-o", "out.png", "--model", "model")
    assert (done.returncode, done.stdout) == (0, "fused ct.png and mr.png; wrote out.png\n"), done.stderr
    fused = Image.open(folder / "out.png")
    assert (fused.size, fused.mode) == ((20, 18), "L")
    for name, choice in (("fer", ("--strategy", "fer")), ("stored", ("--batchnorm", "stored"))):
        other = fusion("fuse", "ct.png", "mr.png", "-o", f"{name}.png", "--model", "model", *choice)
        assert other.returncode == 0, other.stderr
        assert (folder / f"{name}.png").read_bytes() != (folder / "out.png").read_bytes()


def test_the_shipped_model_is_the_default(folder, fusion, monkeypatch):
    monkeypatch.setattr(pipelines.fuse, "SHIPPED_MODEL", folder / "model")
    assert fusion("fuse", "ct.png", "mr.png", "-o", "default.png").returncode == 0
    assert fusion("fuse", "ct.png", "mr.png", "-o", "named.png", "--model", "model").returncode == 0
    assert (folder / "default.png").read_bytes() == (folder / "named.png").read_bytes()


@pytest.mark.parametrize("order", [("pet.png", "mr.png"), ("mr.png", "pet.png")])
def test_the_luma_is_fused_and_the_colour_put_back(folder, colour, fusion, order):
    luma, chroma = split_colour(torch.from_numpy(colour).movedim(-1, 0) / 255)
    Image.fromarray((luma[0] * 65535).round().numpy().astype(np.uint16)).save(folder / "luma.png")
    grey_order = [name.replace("pet", "luma") for name in order]
    assert fusion("fuse", *order, "-o", "fused.png", "--model", "model").returncode == 0
    assert fusion("fuse", *grey_order, "-o", "grey.png", "--model", "model").returncode == 0
    fused = Image.open(folder / "fused.png")
    assert (fused.size, fused.mode) == ((20, 18), "RGB")
    grey = torch.from_numpy(np.array(Image.open(folder / "grey.png")) / 65535).float()
    expected = (join_colour(grey[None], chroma).movedim(0, -1) * 255).numpy()
    assert np.abs(np.array(fused) - expected).max() <= 0.51
    assert len(np.unique(fused)) > 20


def test_a_colour_file_that_is_grey_gives_a_grey_result(folder, fusion):
    Image.open(folder / "ct.png").convert("RGB").save(folder / "ct-rgb.png")
    for source, out in (("ct.png", "a.png"), ("ct-rgb.png", "b.png")):
        assert fusion("fuse", source, "mr.png", "-o", out, "--model", "model").returncode == 0
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()


def test_a_deep_source_gives_a_deep_result(folder, colour, fusion, refused):
    eight = np.array(Image.open(folder / "ct.png"))
    Image.fromarray(eight.astype(np.uint16) * 257).save(folder / "deep.tif")
    for source, out in (("ct.png", "a.png"), ("deep.tif", "b.png"), ("deep.tif", "b.tif")):
        assert fusion("fuse", source, "mr.png", "-o", out, "--model", "model").returncode == 0
    shallow, deep, tiff = (np.array(Image.open(folder / name)) for name in ("a.png", "b.png", "b.tif"))
    assert (shallow.dtype, deep.dtype) == (np.uint8, np.uint16)
    assert np.array_equal(deep, tiff)
    assert len(np.unique(deep)) > len(np.unique(shallow))
    assert np.abs(deep / 257 - shallow).max() <= 0.51
    assert "no 16-bit grey" in refused("fuse", "deep.tif", "mr.png", "-o", "b.jpg", "--model", "model")
    assert fusion("fuse", "pet.png", "deep.tif", "-o", "c.png", "--model", "model").returncode == 0
    assert Image.open(folder / "c.png").mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 1), (3, 3), (31, 16), (17, 33)])
@pytest.mark.parametrize("level", [None, 0, 255])
def test_any_size_and_constant_images_have_a_defined_result(folder, fusion, size, level):
    for seed, name in enumerate(("a.png", "b.png")):
        levels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8) if level is None else level
        Image.fromarray(np.broadcast_to(np.uint8(levels), size).copy()).save(folder / name)
    for strategy in ("sfnn", "fer"):
        done = fusion("fuse", "a.png", "b.png", "-o", "o.png", "--model", "model", "--strategy", strategy)
        assert (done.returncode, done.stderr) == (0, "")
        assert Image.open(folder / "o.png").size == size[::-1]


def test_bad_input_to_fuse_is_one_line_and_writes_nothing(folder, colour, refused, monkeypatch):
    monkeypatch.setattr(pipelines.fuse, "SHIPPED_MODEL", folder / "nothing-shipped")
    Image.new("L", (20, 20)).save(folder / "other.png")
    Image.fromarray(np.full((18, 20), np.nan, np.float32)).save(folder / "nan.tif")
    Image.fromarray(np.full((18, 20), np.inf, np.float32)).save(folder / "inf.tif")
    (folder / "text.png").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "ct.png").read_bytes()[:200])
    (folder / "link.png").symlink_to("mr.png")
    whole = (folder / "model" / "weights.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:5000])
    weights = load_file(folder / "model" / "weights.safetensors")
    save_file({"conv.weight": torch.zeros(3)}, folder / "other.safetensors")
    save_file({"fe.conv1.weight": torch.zeros(64, 1, 1, 1)}, folder / "part.safetensors")
    save_file(weights | {"decoder.2.bias": torch.tensor([torch.nan])}, folder / "nan.safetensors")
    save_file(weights | {"decoder.2.weight": torch.full((1, 32, 3, 3), 3e38)}, folder / "huge.safetensors")
    torch.save(weights, folder / "model.pt")
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    pair, model = ("ct.png", "mr.png", "-o", "o.png"), ("--model", "model")
    cases = {
        ("ct.png", "absent.png", "-o", "o.png", *model): "no such image: absent.png",
        ("ct.png", ".", "-o", "o.png", *model): "ct.png is no folder",
        ("ct.png", "other.png", "-o", "o.png", *model): "ct.png is 20x18, other.png is 20x20",
        ("pet.png", "pet.png", "-o", "o.png", *model): "are both in colour",
        ("text.png", "mr.png", "-o", "o.png", *model): "text.png is not an image",
        ("cut.png", "mr.png", "-o", "o.png", *model): "cut.png is a damaged image file",
        ("nan.tif", "mr.png", "-o", "o.png", *model): "nan.tif has pixels that are not finite",
        ("inf.tif", "mr.png", "-o", "o.png", *model): "inf.tif has pixels that are not finite",
        ("model/config.json", "mr.png", "-o", "o.png", *model): "config.json is not an image",
        ("ct.png", "mr.png", "-o", "nowhere/o.png", *model): "cannot write nowhere/o.png",
        ("ct.png", "mr.png", "-o", "/proc/o.png", *model): "cannot write /proc/o.png",
        ("ct.png", "mr.png", "-o", "model", *model): "cannot tell an image format from 'model'",
        ("", "mr.png", "-o", "o.png", *model): "the name of a source is empty",
        ("ct.png", "mr.png", "-o", ".", *model): "cannot tell an image format from '.'; end the name in .png",
        ("ct.png", "mr.png", "-o", "o.dcm", *model): "cannot tell an image format from 'o.dcm'",
        ("ct.png", "mr.png", "-o", "ct.png", *model): "ct.png is one of the sources",
        ("ct.png", "mr.png", "-o", "link.png", *model): "link.png is one of the sources",
        ("pet.png", "mr.png", "-o", "o.gif", *model): "GIF has no true colour",
        pair: "no model ships with this program",
        (*pair, "--model", ""): "the model's name is empty",
        (*pair, "--model", "absent"): "no model at absent (No such file or directory)",
        (*pair, "--model", "x" * 300): "File name too long",
        (*pair, "--model", "."): ". holds no model: config.json is missing",
        (*pair, "--model", "cut.safetensors"): "cut.safetensors is truncated or no safetensors file",
        (*pair, "--model", "other.safetensors"): "other.safetensors holds the weights of another architecture",
        (*pair, "--model", "part.safetensors"): "part.safetensors lacks fe.conv1.bias and",
        (*pair, "--model", "nan.safetensors"): "decoder.2.bias has values that are not finite",
        (*pair, "--model", "huge.safetensors"): "the model gives values that are not finite",
        (*pair, "--model", "model.pt"): "model.pt is a PyTorch pickle",
        (*pair, "--model", "ct.png"): "ct.png is truncated or no safetensors file",
        (*pair, "--model", "models:/none/1"): "no local MLflow store in runs",
        (*pair, *model, "--strategy", "best"): "unknown fusion strategy 'best'; choose one of",
        (*pair, *model, "--batchnorm", "train"): "unknown BatchNorm statistics 'train'",
        (*pair, "--model", "cut.safetensors", "--strategy", "best"): "cut.safetensors",
    }
    for arguments, words in cases.items():
        assert words in refused("fuse", *arguments), arguments
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


def test_images_too_large_for_this_machine_are_refused_before_it_runs_out_of_memory(folder, refused, monkeypatch):
    Image.new("L", (3000, 2000)).save(folder / "a.png")
    memory = psutil.virtual_memory()._replace(available=8 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    said = refused("fuse", "a.png", "a.png", "-o", "o.png", "--model", "model")
    assert "a.png is 3000x2000, which takes 15 GiB of memory to fuse, and 8 GiB are free" in said


@pytest.fixture
def folders(folder, colour):
    """Two folders of three pairs, one of them in colour and one of another size, and an image without partner."""
    for name in ("a", "b"):
        (folder / name).mkdir()
    for name, first in (("1", "ct.png"), ("2", "pet.png")):
        (folder / "a" / f"{name}.png").write_bytes((folder / first).read_bytes())
        (folder / "b" / f"{name}.png").write_bytes((folder / "mr.png").read_bytes())
    levels = np.random.default_rng(8).integers(0, 2**16, (2, 12, 14), dtype=np.uint16)
    for name, image in zip(("a", "b"), levels, strict=True):
        Image.fromarray(image).save(folder / name / "10.tif")
    (folder / "b" / "11.png").write_bytes((folder / "mr.png").read_bytes())
    return folder


def test_folders_are_fused_pair_by_pair_as_their_images_are(folders, fusion):
    done = fusion("fuse", "a", "b", "-o", "out", "--model", "model")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fused 3 pairs; wrote out; left out: 1 without a partner of the same name\n"
    assert sorted(path.name for path in (folders / "out").iterdir()) == ["1.png", "10.png", "2.png"]
    for name, suffix in (("1", "png"), ("2", "png"), ("10", "tif")):
        one = fusion("fuse", f"a/{name}.{suffix}", f"b/{name}.{suffix}", "-o", f"{name}.png", "--model", "model")
        assert one.returncode == 0, one.stderr
        assert (folders / f"{name}.png").read_bytes() == (folders / "out" / f"{name}.png").read_bytes()


def test_folders_that_cannot_be_fused_leave_nothing(folders, refused):
    out = folders / "out"
    assert "a/1.png is no folder, the other one is" in refused("fuse", "a/1.png", "b", "-o", "out")
    assert "--window is for volumes" in refused("fuse", "a", "b", "-o", "out", "--window", "40/80")
    assert "b is not an empty folder; name a new one" in refused("fuse", "a", "b", "-o", "b")
    assert "o.png is to be a folder, as the sources are" in refused("fuse", "a", "b", "-o", "o.png")
    (folders / "a" / "2.png").write_bytes(b"no image")
    assert "a/2.png" in refused("fuse", "a", "b", "-o", "out", "--model", "model")
    assert not out.exists() and not list(folders.glob(".out*"))
    for path in (folders / "b").iterdir():
        path.rename(path.with_name(f"mr-{path.name}"))
    assert "name pairs alike" in refused("fuse", "a", "b", "-o", "out")
