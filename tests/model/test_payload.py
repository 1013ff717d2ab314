"""What a served model takes for images and gives back: every form of them, and one line for whatever is none."""

import base64
import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from model.errors import InputError
from model.images import read_image
from model.payload import Limits, fuse_batches, read_batch, write_batch


def png(levels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, format=kind)
    return stream.getvalue()


def text(levels: np.ndarray) -> str:
    return base64.b64encode(png(levels)).decode()


def shown(encoded: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(encoded))))


@pytest.fixture
def levels():
    """Grey levels of 8 bits, height 5, width 7."""
    return np.random.default_rng(0).integers(2, 256, (5, 7), dtype=np.uint8)


@pytest.fixture
def colour():
    return np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


FORMS = {
    "bytes": lambda grey: png(grey),
    "base64": lambda grey: text(grey),
    "base64 in lines": lambda grey: base64.encodebytes(png(grey)).decode(),
    "data URI": lambda grey: f"data:image/png;base64,{text(grey)}",
    "TIFF": lambda grey: png(grey, "TIFF"),
    "one in an array": lambda grey: np.array(png(grey), dtype=object),
    "uint8": lambda grey: grey,
    "uint16": lambda grey: grey.astype(np.uint16) * 257,
    "floats": lambda grey: grey / 255,
    "integers of JSON": lambda grey: np.array(grey.tolist(), dtype=object),
    "floats of JSON": lambda grey: (grey / 255).tolist(),
    "equal channels": lambda grey: np.repeat(grey[..., None], 3, axis=2),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_is_the_same_in_every_form(levels, form):
    batch = read_batch(FORMS[form](levels), "ct")
    (picture,) = batch.pictures
    assert batch.single and batch.names == ["ct"] and picture.chroma is None
    torch.testing.assert_close(picture.luma, torch.from_numpy(levels / 255).float()[None], atol=1e-7, rtol=0)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("one in an array",)])
def test_a_batch_is_the_same_in_every_form(levels, form):
    images = [levels, levels[::-1].copy()]
    values = [FORMS[form](image) for image in images]
    given = [values]
    if isinstance(values[0], np.ndarray):
        given.append(np.stack(values))
    else:
        given.append(np.array(values, dtype=object))
        given.append(np.array([np.array(value, dtype=object) for value in values]))  # as MLflow makes of `instances`
    for value in given:
        batch = read_batch(value, "ct")
        assert not batch.single and len(batch.pictures) == 2
        for picture, image in zip(batch.pictures, images, strict=True):
            torch.testing.assert_close(picture.luma, torch.from_numpy(image / 255).float()[None], atol=1e-7, rtol=0)


def test_sizes_may_differ_within_a_batch(levels):
    others = [levels[:3], levels[:, :4], levels.T.copy()]
    for images in ([levels, *others], [image.tolist() for image in (levels, *others)]):
        sizes = [tuple(picture.luma.shape[1:]) for picture in read_batch(images, "ct").pictures]
        assert sizes == [(5, 7), (3, 7), (5, 4), (7, 5)]
    nested = np.empty(2, dtype=object)
    nested[:] = [levels, others[0]]
    assert [picture.luma.shape[1] for picture in read_batch(nested, "ct").pictures] == [5, 3]


def test_levels_count_as_a_share_of_what_their_type_or_input_bits_can_hold(levels):
    dark = np.full((2, 4), 200, np.uint16)
    assert read_batch(dark, "ct").pictures[0].luma.max().item() == pytest.approx(200 / 65535)
    assert read_batch(dark.tolist(), "ct").pictures[0].luma.max().item() == pytest.approx(200 / 255)
    assert read_batch(dark, "ct", 12).pictures[0].luma.max().item() == pytest.approx(200 / 4095)
    assert read_batch([[0, 1]], "ct", 1).pictures[0].luma.max() == 1
    assert read_batch(np.uint8([[0, 1]]), "ct").pictures[0].luma.max().item() == pytest.approx(1 / 255)
    depths = [read_batch(value, "ct").depth for value in (levels, dark, levels / 255, png(levels), png(dark))]
    assert depths == [8, 16, 32, 8, 16]


def mean(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    assert a.shape == b.shape and a.ndim == 4
    return (a + b) / 2


def fuse(ct, mri, **options):
    a, b = read_batch(ct, "ct"), read_batch(mri, "mri")
    return write_batch(fuse_batches(a, b, mean), a, b, **options)


def test_arrays_come_back_as_they_came(levels):
    other = 255 - levels
    assert np.array_equal(fuse(levels, other), np.full((5, 7), 128, np.uint8))
    assert fuse(levels[None], other[None]).shape == (1, 5, 7)
    floats = fuse(levels / 255, other)
    assert floats.dtype == np.float32 and floats.max() == pytest.approx(0.5)
    deep = fuse(levels, other, output_bits=16)
    assert deep.dtype == np.uint16 and deep[0, 0] == 32768
    assert fuse(levels, other.astype(np.uint16) * 257).dtype == np.uint16
    ragged = fuse([levels, levels[:2]], [other, other[:2]])
    assert [image.shape for image in ragged] == [(5, 7), (2, 7)]


def test_files_come_back_as_files_unless_told_otherwise(levels):
    other = 255 - levels
    single, (first, second) = fuse(text(levels), png(other)), fuse([text(levels)] * 2, [png(other)] * 2)
    assert np.array_equal(shown(single), np.full((5, 7), 128, np.uint8)) and single == first == second
    assert shown(fuse(png(levels), png(other), output_bits=16)).dtype == np.uint16
    assert shown(fuse(png(levels.astype(np.uint16) * 257), png(other))).dtype == np.uint16
    assert shown(fuse(levels / 255, other / 255, encoding="png")).dtype == np.uint16
    assert fuse(png(levels), png(other), encoding="array").dtype == np.uint8
    assert fuse(png(levels), other).dtype == np.uint8


def test_colour_is_kept_as_fusion_fuse_keeps_it(tmp_path, levels, colour):
    (tmp_path / "pet.png").write_bytes(png(colour))
    expected = read_image(tmp_path / "pet.png")
    for pet in (colour, png(colour), colour / 255):
        for a, b in ((pet, levels), (levels, pet)):
            fused = fuse(a, b, encoding="array", output_bits=32)
            assert fused.shape == (5, 7, 3)
            again = read_batch(fused, "fused").pictures[0]
            inside = (fused > 0).all(-1) & (fused < 1).all(-1)
            assert inside.sum() > 5
            torch.testing.assert_close(again.chroma[:, inside], expected.chroma[:, inside], atol=1e-5, rtol=0)
    assert shown(fuse(png(colour), png(levels))).shape == (5, 7, 3)
    stack = fuse(np.stack([colour, colour]), np.stack([levels, levels]))
    assert (stack.shape, stack.dtype) == ((2, 5, 7, 3), np.uint8)
    mixed = fuse([png(colour), png(levels)], [png(levels)] * 2)
    assert [shown(image).ndim for image in mixed] == [3, 2]


SMALL = Limits(pixels=100, encoded=150)
BAD = {
    "no number": (None, "does not hold numbers"),
    "a word": ("hello world", "ct is a text, but not base64"),
    "base64 of no image": (base64.b64encode(b"hello").decode(), "ct is not an image this program reads"),
    "a cut file": (lambda grey: png(grey)[:60], "ct is a damaged image file"),
    "a number": (5, r"ct has shape \(\)"),
    "a row": ([0.5, 0.5], r"ct has shape \(2,\)"),
    "nothing": ([], r"ct has shape \(0,\)"),
    "no pixels": (np.zeros((0, 5)), "no pixels"),
    "five axes": (np.zeros((1, 1, 1, 2, 2)), "has shape"),
    "four channels": (np.zeros((2, 5, 7, 4)), r"has shape .*\(N, H, W, 3\)"),
    "rows of different lengths": ([[0.5, 0.5], [0.5]], "ct.0. has shape"),
    "true and false": (np.zeros((2, 2), bool), "does not hold numbers"),
    "objects": ([[{"a": 1}]], "does not hold numbers"),
    "texts among numbers": ([["a", "b"]], "does not hold numbers"),
    "files among numbers": (lambda grey: [png(grey), [[0.5]]], "ct.0. does not hold numbers"),
    "NaN": ([[0.5, float("nan")]], "pixels that are not finite"),
    "floats above 1": (lambda grey: grey.astype(np.float32), r"outside \[0, 1\]; give levels as integers"),
    "integers above 255": ([[0, 4000]], "say in the parameter input_bits"),
    "negative": ([[-3, 4]], "values from -3 to 4"),
    "only 0 and 1": ([[0, 1]], "only the integers 0 and 1; say in the parameter input_bits"),
    "numbers beyond any level": ([[2**70]], "does not hold numbers"),
    "transparent": (lambda grey: png(np.dstack([grey] * 4)), "ct has transparent pixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_image_is_told_in_one_line(levels, case):
    value, words = BAD[case]
    with pytest.raises(InputError, match=words) as refusal:
        read_batch(value(levels) if callable(value) else value, "ct")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


def test_too_many_pixels_are_refused_before_they_are_decoded(levels, monkeypatch):
    big = png(np.zeros((11, 10), np.uint8))
    with pytest.raises(InputError, match="ct has 10x11 pixels, and at most 100 are taken"):
        read_batch(np.zeros((11, 10)), "ct", limits=SMALL)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(InputError, match="ct has 10x11 pixels, and at most 100 are taken"):
        read_batch(big, "ct", limits=SMALL)
    # A header that claims 60000 times 60000 pixels over a few bytes.
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + big[24:29]
    bomb = big[:12] + header + zlib.crc32(header).to_bytes(4, "big") + big[33:]
    with pytest.raises(InputError, match="ct claims more pixels than any slice has"):
        read_batch(bomb, "ct")
    with pytest.raises(InputError, match="bytes long"):
        read_batch(b"x" * (2**16 + 1000), "ct", limits=SMALL)
    with pytest.raises(InputError, match="bytes long"):
        read_batch("eHh4" * (2**16), "ct", limits=SMALL)


def test_a_batch_of_files_has_a_limit_too(levels):
    with pytest.raises(InputError, match=r"ct\[4\] has 7x5 pixels, and at most 10"):
        read_batch([png(levels)] * 5, "ct", limits=SMALL)


@pytest.mark.parametrize(
    ("ct", "mri", "options", "words"),
    [
        (np.zeros((2, 5, 7)), np.zeros((3, 5, 7)), {}, "ct has 2 images and mri has 3"),
        (np.zeros((5, 7)), np.zeros((7, 5)), {}, "ct is 7x5, mri is 5x7; resample"),
        ([np.zeros((5, 7))], [np.zeros((7, 5))], {}, r"ct\[0\] is 7x5"),
        (np.zeros((5, 7)), np.zeros((5, 7)), {"encoding": "jpeg"}, "unknown encoding 'jpeg'; choose one of same"),
        (np.zeros((5, 7)), np.zeros((5, 7)), {"output_bits": 12}, "output_bits is 12; choose 8, 16"),
        (np.zeros((5, 7)), np.zeros((5, 7)), {"output_bits": 32, "encoding": "png"}, "a PNG file holds 8 or 16 bits"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_line(ct, mri, options, words):
    with pytest.raises(InputError, match=words):
        fuse(ct, mri, **options)


def test_two_in_colour_and_deep_colour_files_are_refused(colour, levels):
    with pytest.raises(InputError, match="both in colour"):
        fuse(colour, png(colour))
    with pytest.raises(InputError, match="8-bit colour"):
        fuse(colour, levels, encoding="png", output_bits=16)
    with pytest.raises(InputError, match="input_bits is for arrays"):
        read_batch(png(levels), "ct", 12)
    with pytest.raises(InputError, match="input_bits is for integers"):
        read_batch(levels / 255, "ct", 12)
    with pytest.raises(InputError, match="input_bits is 17"):
        read_batch(levels, "ct", 17)


def test_weights_that_give_no_numbers_are_told():
    batch = read_batch(np.zeros((2, 2)), "ct")
    with pytest.raises(InputError, match="not finite"):
        fuse_batches(batch, batch, lambda a, b: a * torch.nan)
