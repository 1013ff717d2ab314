"""Two pictures of one slice: whether they can be fused, and what the fused picture keeps of them."""

import psutil
from torch import Tensor

from model.errors import InputError
from model.images import Picture

# Measured peak of encoding and fusing one pair; nearly all of it is maps of 64 channels.
BYTES_PER_PIXEL = 2700


def check_pictures(a: Picture, b: Picture, names: tuple[object, object]) -> None:
    """Raise InputError, by the names, if sizes differ, both are in colour, or memory is too small to fuse them."""
    sizes = [f"{picture.luma.shape[2]}x{picture.luma.shape[1]}" for picture in (a, b)]
    if sizes[0] != sizes[1]:
        raise InputError(f"{names[0]} is {sizes[0]}, {names[1]} is {sizes[1]}; resample one to the other's size")
    _check_memory(a, names[0])
    if a.chroma is not None and b.chroma is not None:
        raise InputError(
            f"{names[0]} and {names[1]} are both in colour; convert one of them, the anatomical one, to grey"
        )


def fused_picture(luma: Tensor, a: Picture, b: Picture) -> Picture:
    """The fused luma (1, H, W) with the chroma of the source that has some, of 16 bits if either source has."""
    return Picture(luma, a.chroma if a.chroma is not None else b.chroma, max(a.depth, b.depth))


def _check_memory(picture: Picture, name: object) -> None:
    _, height, width = picture.luma.shape
    needed, there = (height + height % 2) * (width + width % 2) * BYTES_PER_PIXEL, psutil.virtual_memory().available
    if needed > there:
        raise InputError(
            f"{name} is {width}x{height}, which takes {needed / 2**30:.0f} GiB of memory to fuse, and "
            f"{there / 2**30:.0f} GiB are free; crop the images or make them smaller"
        )
