"""Reading and writing images: every way a file can be wrong is one clear line, and nothing is left half-written."""

import numpy as np
import pytest
import torch
from PIL import Image

from model.errors import InputError
from model.images import read_grey, write_grey


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
    write_grey(tmp_path / "b.png", image)
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
        "x" * 300 + ".png": (lambda path: None, "no path"),
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
    with pytest.raises(InputError, match=r"cut\.png is damaged"):
        read_grey(path)


def test_a_place_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, grey):
    image = torch.from_numpy(grey).float()[None] / 255
    for path, complaint in (
        (tmp_path / "absent" / "out.png", "cannot write"),
        (tmp_path / "out.xyz", "image format"),
        (tmp_path / "out", "image format"),
        (tmp_path / "out.psd", "image format"),
        (tmp_path / ("x" * 300 + ".png"), "cannot write"),
    ):
        with pytest.raises(InputError, match=complaint):
            write_grey(path, image)
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_grey(tmp_path / "taken.png", image)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path, grey, monkeypatch):
    path = save(tmp_path / "out.png", grey)
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_grey(path, torch.zeros(1, 4, 4))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
