"""Reading one PNG file for judgement: what it holds, or why it cannot be read; never an exception."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

# What people give a name in .png by mistake; opened only to say what it is.
_OTHER_FORMATS = ("JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
_DEPTH_BYTE = 24


@dataclass(frozen=True, eq=False)
class Slice:
    """A decoded image: Pillow's `mode`, the file's `bit_depth`, and its grey `levels` (H, W), of colour the luma.

    `sha256` is of the decoded pixels in their own mode, so that a re-encoded copy counts as a copy.
    """

    mode: str
    bit_depth: int
    levels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    sha256: str

    @property
    def bytes(self) -> npt.NDArray[np.uint8]:
        """The levels as uint8, of 16 bits the upper eight."""
        return (self.levels >> (0 if self.levels.dtype == np.uint8 else 8)).astype(np.uint8, copy=False)


def read_slice(path: Path) -> Slice | str:
    """The image in a PNG file, or in one line why there is none."""
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return "no such file"
    except IsADirectoryError:
        return "a folder"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "claims more pixels than any slice has"
    except Exception as error:  # damaged bytes make decoders raise OSError, SyntaxError, zlib.error and more
        return " ".join(f"{type(error).__name__}: {error}".split())


def _decode(content: bytes) -> Slice | str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(BytesIO(content), formats=["PNG"])
        except UnidentifiedImageError:
            return _other_format(content)
        with image:
            if getattr(image, "n_frames", 1) > 1:
                return "several frames"
            image.load()
            if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                return "transparent pixels"
            pixels = np.asarray(image)
            deep = pixels.ndim == 2 and pixels.dtype.itemsize > 1
            levels = pixels.astype(np.uint16) if deep else np.asarray(image.convert("L"))
            digest = hashlib.sha256(f"{image.mode} {pixels.shape}".encode() + pixels.tobytes()).hexdigest()
            # Pillow reads colour of 16 bits as of 8 and grey of 4 as of 8; the header knows.
            return Slice(image.mode, content[_DEPTH_BYTE], levels, digest)


def _other_format(content: bytes) -> str:
    try:
        with Image.open(BytesIO(content), formats=_OTHER_FORMATS) as image:
            return f"not a PNG image but {image.format}, mode {image.mode}"
    except UnidentifiedImageError:
        return "not a PNG image"
