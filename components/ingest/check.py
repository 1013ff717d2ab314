"""Whether one file is an image that the dataset can hold: what is wrong with it, in a few words."""

import io
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from components.ingest.layout import IN_COLOUR

MIN_SIDE, MAX_SIDE = 8, 4096
_GREY, _COLOUR = ("L",), ("L", "RGB")
_BRIGHT = 240
_DEEP = "more than 8 bits a channel"


class BadImage(Exception):
    """What is wrong with an image file."""


@dataclass(frozen=True)
class ImageFacts:
    """Width and height in pixels, and the share of its pixels that are (nearly) white: bone, in CT."""

    size: tuple[int, int]
    bright: float


def check_image(content: bytes, modality: str) -> ImageFacts:
    """Decode a PNG file of `modality`; raises BadImage.

    8 bits; grey, or RGB for the modalities shown in colour; sides of 8 to 4096 pixels, told before they are decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=("PNG",))
            _check_kind(image, content, modality)
            image.load()
    except UnidentifiedImageError:
        raise BadImage("no PNG file") from None
    except Image.DecompressionBombError:
        raise BadImage(f"claims more pixels than {MAX_SIDE}x{MAX_SIDE}") from None
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        raise BadImage(f"damaged ({error})") from None
    return ImageFacts(image.size, float((np.asarray(image.convert("L")) >= _BRIGHT).mean()))


def _check_kind(image: Image.Image, content: bytes, modality: str) -> None:
    width, height = image.size
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise BadImage(f"{width}x{height} pixels, where sides are {MIN_SIDE} to {MAX_SIDE}")
    if getattr(image, "n_frames", 1) > 1:
        raise BadImage("several frames")
    # Byte 24 of a PNG file is its bit depth; Pillow would read 16-bit colour as 8-bit without a word.
    if content[24] > 8:
        raise BadImage(_DEEP)
    if modality not in IN_COLOUR and image.mode not in _GREY:
        kind = "in colour" if image.mode in ("RGB", "P") else f"of pixel mode {image.mode}"
        raise BadImage(f"{kind}, where {modality} is 8-bit grey; is it of another modality?")
    if image.mode not in _COLOUR or "transparency" in image.info:
        raise BadImage(f"of pixel mode {image.mode}, where {modality} is 8-bit grey or RGB without transparency")
