"""Reading and writing images: every way a file can be wrong is one clear line, and nothing is left half-written."""

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from model.errors import InputError
from model.images import Picture, join_colour, read_grey, read_image, split_colour, write_image


def save(path, array: np.ndarray, mode: str | None = None):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.fixture
def grey() -> np.ndarray:
    return np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def test_grey_images_come_back_as_they_were_written(tmp_path, grey):
    image = read_grey(save(tmp_path / "a.png", grey))
    assert image.shape == (1, 6, 8)
    assert torch.equal(image[0], torch.from_numpy(grey).float() / 255)
    write_image(tmp_path / "b.png", Picture(image))
    assert np.array_equal(np.array(Image.open(tmp_path / "b.png")), grey)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_grey_in_colour_clothes_is_read_as_grey(tmp_path, grey, mode: str):
    assert torch.equal(read_grey(save(tmp_path / "a.png", grey, mode)), read_grey(save(tmp_path / "b.png", grey)))


def test_wrong_files_are_named_with_a_remedy(tmp_path, grey):
    colour = np.stack([grey, grey * 2, grey], axis=-1)
    cases = {
        "colour.png": (lambda path: save(path, colour), "in colour"),
        "deep.png": (lambda path: Image.fromarray(grey.astype(np.uint16) * 200).save(path), "pixel mode I;16"),
        "cmyk.jpg": (lambda path: save(path, colour, "CMYK"), "pixel mode CMYK"),
        "text.png": (lambda path: path.write_text("hello"), "not an image"),
        "empty.png": (lambda path: path.touch(), "not an image"),
        "folder.png": (lambda path: path.mkdir(), "is a folder"),
        "missing.png": (lambda path: None, "no such image"),
        "x" * 300 + ".png": (lambda path: None, "File name too long"),
    }
    for name, (make, complaint) in cases.items():
        make(tmp_path / name)
        with pytest.raises(InputError, match=complaint) as caught:
            read_grey(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_png_is_called_damaged(tmp_path, kept: float):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = save(tmp_path / "cut.png", noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(InputError, match=r"cut\.png is a damaged image file"):
        read_grey(path)


def test_a_place_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, grey):
    image = torch.from_numpy(grey).float()[None] / 255
    for path, complaint in (
        (tmp_path / "absent" / "out.png", "cannot write"),
        (tmp_path / "out.xyz", "image format"),
        (tmp_path / "out", "image format"),
        (tmp_path / "out.psd", "image format"),
        (tmp_path / "out.pdf", "image format"),
        (tmp_path / ("x" * 300 + ".png"), "cannot write"),
    ):
        with pytest.raises(InputError, match=complaint):
            write_image(path, Picture(image))
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_image(tmp_path / "taken.png", Picture(image))
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path, grey, monkeypatch):
    path = save(tmp_path / "out.png", grey)
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_image(path, Picture(torch.zeros(1, 4, 4)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def tiff(path, array: np.ndarray, order: str = "<", photometric: int = 1, kind: int = 1):
    """A plain TIFF of one channel in either byte order; `kind` is 1 unsigned, 2 signed, 3 float."""
    data = array.astype(array.dtype.newbyteorder(order)).tobytes()
    height, width = array.shape
    bits = array.dtype.itemsize * 8
    tags = ((256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height))
    tags += ((279, len(data)), (339, kind))
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))
    return path


def png(path, colour_type: int, array: np.ndarray):
    """A PNG as Pillow does not write it: 16 bits a channel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.fixture
def deep() -> np.ndarray:
    return np.array([[0, 1, 255, 256], [4095, 32768, 65534, 65535]], np.uint16)


@settings(max_examples=50)
@given(arrays(np.uint8, (3, 2, 2)))
def test_colour_survives_being_taken_apart_and_put_together(levels: np.ndarray):
    rgb = torch.from_numpy(levels.astype(np.float32)) / 255
    luma, chroma = split_colour(rgb)
    assert -1e-6 <= float(luma.min()) <= float(luma.max()) <= 1 + 1e-6
    assert float(chroma.abs().max()) <= 0.5 + 1e-6
    assert np.array_equal((join_colour(luma, chroma) * 255).round().to(torch.uint8).numpy(), levels)


def test_luma_and_chroma_are_those_of_bt601():
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    luma, chroma = split_colour(red)
    assert luma.flatten().tolist() == pytest.approx([0.299], abs=1e-6)
    assert chroma.flatten().tolist() == pytest.approx([-0.168736, 0.5], abs=1e-6)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp", "a.ppm"])
def test_a_colour_file_comes_back_as_it_was_written(tmp_path, name: str):
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = read_image(save(tmp_path / "colour.png", levels))
    assert (picture.luma.shape, picture.chroma.shape, picture.depth) == ((1, 5, 7), (2, 5, 7), 8)
    write_image(tmp_path / name, picture)
    assert np.array_equal(np.array(Image.open(tmp_path / name).convert("RGB")), levels)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_grey_files_of_any_mode_have_no_chroma(tmp_path, grey, mode: str):
    picture = read_image(save(tmp_path / "a.png", grey, mode))
    assert (picture.chroma, picture.depth) == (None, 8)
    assert torch.equal(picture.luma, read_grey(save(tmp_path / "b.png", grey)))


def test_a_palette_image_is_read_in_its_colours(tmp_path):
    levels = np.zeros((2, 3, 3), np.uint8)
    levels[0, 0] = 255, 0, 0
    flat = Image.fromarray(levels).quantize(4)
    flat.save(tmp_path / "p.png")
    picture = read_image(tmp_path / "p.png")
    again = join_colour(picture.luma, picture.chroma)
    assert np.array_equal((again * 255).round().numpy().transpose(1, 2, 0), np.array(flat.convert("RGB")))


def test_sixteen_bits_are_read_by_their_full_range_and_written_back(tmp_path, deep):
    sources = [
        save(tmp_path / "a.png", deep),
        save(tmp_path / "a.tif", deep),
        tiff(tmp_path / "little.tif", deep),
        tiff(tmp_path / "big.tif", deep, ">"),
        tiff(tmp_path / "wide.tif", deep.astype(np.uint32)),
        tiff(tmp_path / "float.tif", (deep / 65535).astype(np.float32), kind=3),
    ]
    for path in sources:
        picture = read_image(path)
        assert (picture.chroma, picture.depth) == (None, 16), path
        assert np.allclose(picture.luma[0].numpy(), deep / 65535, atol=1e-7), path
    for name in ("back.png", "back.tif"):
        write_image(tmp_path / name, picture)
        assert np.array_equal(np.array(Image.open(tmp_path / name)), deep)
    for name in ("back.jpg", "back.bmp", "back.webp"):
        with pytest.raises(InputError, match=r"no 16-bit grey; end the name in \.png or \.tif"):
            write_image(tmp_path / name, picture)


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_understood_for_sure_is_refused(tmp_path, grey, deep):
    colour = np.stack([grey, grey * 2, grey], axis=-1)
    clear = np.concatenate([colour, np.full_like(grey, 254)[..., None]], axis=-1)
    share = (deep / 65535).astype(np.float32)
    frames = [Image.fromarray(grey), Image.fromarray(grey // 2)]
    cases = {
        "clear.png": (lambda path: save(path, clear), "transparent"),
        "clear-la.png": (lambda path: save(path, clear[..., 2:]), "transparent"),
        "key.png": (lambda path: Image.fromarray(grey).save(path, transparency=5), "transparent"),
        "cmyk.tif": (lambda path: save(path, colour, "CMYK"), "pixel mode CMYK"),
        "lab.tif": (lambda path: save(path, colour, "LAB"), "pixel mode LAB"),
        "moving.gif": (lambda path: frames[0].save(path, save_all=True, append_images=frames[1:]), "2 frames"),
        "moving.png": (lambda path: frames[0].save(path, save_all=True, append_images=frames[1:]), "2 frames"),
        "stack.tif": (lambda path: frames[0].save(path, save_all=True, append_images=frames[1:]), "2 frames"),
        "deep-colour.png": (lambda path: png(path, 2, np.repeat(deep, 3, axis=1)[:, :6]), "more than 8 bits"),
        "deep-alpha.png": (lambda path: png(path, 4, deep), "more than 8 bits"),
        "deep-colour.ppm": (lambda path: path.write_bytes(b"P6 1 1 65535\n" + bytes(6)), "more than 8 bits"),
        "nan.tif": (lambda path: tiff(path, share * np.float32("nan"), kind=3), "not finite"),
        "infinite.tif": (lambda path: tiff(path, share + np.float32("inf"), kind=3), "not finite"),
        "hounsfield.tif": (lambda path: tiff(path, share * 4000 - 1000, kind=3), "values from -1000 to 3000"),
        "signed.tif": (lambda path: tiff(path, deep.astype(np.int16), kind=2), "values from -32768 to 4095"),
        "inverse.tif": (lambda path: tiff(path, deep, photometric=0), "white as zero"),
        "script.eps": (lambda path: Image.fromarray(grey).save(path), "not an image"),
        "bomb.png": (lambda path: path.write_bytes(bomb()), "more pixels"),
    }
    for name, (make, complaint) in cases.items():
        make(tmp_path / name)
        for read in (read_image, read_grey):
            with pytest.raises(InputError) as caught:
                read(tmp_path / name)
            assert name in str(caught.value) and "\n" not in str(caught.value)
            assert complaint in str(caught.value) or read is read_grey, caught.value


def bomb() -> bytes:
    """The start of a PNG that claims 10000x10000 pixels, which Pillow itself would only warn of."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 10000, 10000, 8, 0, 0, 0, 0)
    rest = b"IDAT" + zlib.compress(b"")
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, rest))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_orientation_in_a_file_is_applied_as_viewers_do(tmp_path, bits: int):
    levels = (np.arange(6).reshape(2, 3) * 40).astype(f"uint{bits}")
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a.png", "a.tif"):
        Image.fromarray(levels).save(tmp_path / name, exif=exif)
        luma = read_image(tmp_path / name).luma[0] * (2**bits - 1)
        assert np.array_equal(luma.round().numpy(), np.rot90(levels, -1)), name


@settings(max_examples=150)
@given(kind=st.sampled_from(["png", "tif", "gif", "bmp", "webp", "jpg"]), seed=st.integers(0, 2**32 - 1))
def test_a_spoiled_file_is_refused_or_read_but_never_breaks(tmp_path_factory, kind: str, seed: int):
    generator = np.random.default_rng(seed)
    path = tmp_path_factory.getbasetemp() / f"spoiled.{kind}"
    save(path, generator.integers(0, 256, (6, 5), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    for place in generator.integers(0, len(data), 3):
        data[place] = generator.integers(0, 256)
    path.write_bytes(data[: generator.integers(len(data) // 2, len(data) + 1)])
    with contextlib.suppress(InputError):
        luma = read_image(path).luma
        assert -1e-6 <= float(luma.min()) <= float(luma.max()) <= 1 + 1e-6


def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    colour = Picture(torch.rand(1, 4, 4), torch.zeros(2, 4, 4))
    for name, picture, complaint in (
        ("a.gif", colour, "no true colour"),
        ("a.webp", Picture(torch.zeros(1, 1, 20000)), "cannot hold this image"),
        ("a.jpg", Picture(torch.zeros(1, 1, 70000)), "cannot"),
    ):
        with pytest.raises(InputError, match=complaint):
            write_image(tmp_path / name, picture)
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_none_and_a_damaged_file_are_told_apart(tmp_path):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[:45])
    cases = {
        tmp_path / "cut.png": "cut.png is a damaged image file (",
        Path("a\0b.png"): "is no path, as it holds a null byte; give the path",
        tmp_path / "cut.png" / "x.png": "cannot be opened (Not a directory); check the path",
        tmp_path / ("x" * 300): "cannot be opened (File name too long); check the path",
    }
    for path, words in cases.items():
        with pytest.raises(InputError) as refused:
            read_image(path)
        assert words in str(refused.value) and "or no path" not in str(refused.value)
