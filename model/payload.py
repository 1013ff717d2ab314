"""Images as callers of a registered or served model give them, and what they get back: arrays, or encoded files."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.errors import InputError, unknown_choice
from model.images import Picture, decode_image, encode_png, join_colour, split_colour, to_levels

ENCODINGS = ("same", "array", "png")
OUTPUT_BITS = (0, 8, 16, 32)
MOST_PIXELS = 2**22
"""Of one image by default: 2048x2048, which takes 11 GiB of memory to fuse."""
MOST_ENCODED_PIXELS = 2**25
"""Of all encoded images of one input by default: 512 of 256x256."""

_BYTES_PER_PIXEL = 8  # 16-bit RGB, uncompressed, and room for a header
_SMALLEST_FILE = 2**16
_TYPED = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}
_FORMS = "(H, W), (H, W, 3), or a stack of these, (N, H, W) or (N, H, W, 3)"

Fuse = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Limits:
    """The most pixels of one image, and of all encoded images of one input together."""

    pixels: int = MOST_PIXELS
    encoded: int = MOST_ENCODED_PIXELS


@dataclass(frozen=True, eq=False)
class Batch:
    """The images of one input, named as errors name them.

    `single` says that it was one image and no batch of them, `encoded` that they were image files; `depth` is the
    bits of a level, 8, 16, or 32 of floats.
    """

    names: list[str]
    pictures: list[Picture]
    single: bool
    encoded: bool
    depth: int


def read_batch(value: Any, name: str, input_bits: int = 0, limits: Limits | None = None) -> Batch:
    """The images that an input holds.

    It is an array (H, W) or (H, W, 3), a stack of these, nested lists of the same, a list of arrays of any sizes, or
    encoded: bytes or base64 of an image file, or a list of these. Floats lie in [0, 1]; integers are levels of
    `input_bits` bits, by default those of uint8 and uint16 arrays, and 8 of any other. Raises InputError, which calls
    the input `name`, for everything else, and for more pixels than `limits` has, encoded ones before decoding.
    """
    limits = limits or Limits()
    if not 0 <= input_bits <= 16:
        raise InputError(f"input_bits is {input_bits}; give 1 to 16, or 0 for the array's own")
    value = _unwrapped(value)
    if isinstance(value, str | bytes):
        return _decoded([value], [name], True, input_bits, limits)
    if isinstance(value, list) and value and all(isinstance(item, str | bytes) for item in value):
        return _decoded(value, [f"{name}[{i}]" for i in range(len(value))], False, input_bits, limits)
    arrays, single = _arrays(value, name)
    names = [name] if single else [f"{name}[{i}]" for i in range(len(arrays))]
    for array, each in zip(arrays, names, strict=True):
        _check_pixels(array, each, limits)
    bits = _bits(arrays, name, input_bits)
    pictures = [_picture(array, name, bits) for array in arrays]
    return Batch(names, pictures, single, encoded=False, depth=32 if bits == 0 else 8 if bits <= 8 else 16)


def fuse_batches(a: Batch, b: Batch, fuse: Fuse) -> list[Picture]:
    """The fused pictures: the luma is fused, the colour of the one that has any is kept.

    `fuse` takes lumas (N, 1, H, W). Raises InputError if the batches do not pair up, or a fused pixel is not finite.
    """
    if len(a.pictures) != len(b.pictures):
        inputs = (f"{names[0].partition('[')[0]} has {len(names)}" for names in (a.names, b.names))
        raise InputError(f"{' images and '.join(inputs)}; give as many of each")
    pairs = list(zip(a.pictures, b.pictures, strict=True))
    for (one, other), *names in zip(pairs, a.names, b.names, strict=True):
        _check_pair(one, other, names)
    lumas = [[picture.luma for picture in batch.pictures] for batch in (a, b)]
    if len({luma.shape for luma in lumas[0]}) == 1:
        fused = list(fuse(torch.stack(lumas[0]), torch.stack(lumas[1])).cpu())
    else:
        fused = [fuse(one[None], other[None])[0].cpu() for one, other in zip(*lumas, strict=True)]
    if not all(torch.isfinite(image).all() for image in fused):
        raise InputError("the model gives values that are not finite, so its weights are useless; load another version")
    chromas = [one.chroma if one.chroma is not None else other.chroma for one, other in pairs]
    return [Picture(luma, chroma) for luma, chroma in zip(fused, chromas, strict=True)]


def write_batch(fused: Sequence[Picture], a: Batch, b: Batch, encoding: str = "same", output_bits: int = 0) -> Any:
    """The fused images as the caller wants them: arrays, or base64 of PNG files.

    `encoding` is "array", "png", or "same", which is PNG where both inputs were encoded; `output_bits` is 8, 16, 32
    (floats in [0, 1]) or 0, the deeper of the sources; a PNG has at most 16, and 8 in colour. A single pair gives one
    image; a batch an array, or a list of arrays where shapes differ, or a list of strings. Raises InputError for what a
    PNG cannot hold, and for anything unknown.
    """
    if encoding not in ENCODINGS:
        raise unknown_choice("encoding", encoding, ENCODINGS)
    if output_bits not in OUTPUT_BITS:
        raise InputError(f"output_bits is {output_bits}; choose 8, 16, 32 (floats) or 0 (as the sources)")
    if encoding == "png" or (encoding == "same" and a.encoded and b.encoded):
        done: list[Any] = [_png(picture, output_bits, max(a.depth, b.depth)) for picture in fused]
    else:
        done = [_array(picture, output_bits or max(a.depth, b.depth)) for picture in fused]
    if a.single and b.single:
        return done[0]
    stacked = isinstance(done[0], np.ndarray) and len({array.shape for array in done}) == 1
    return np.stack(done) if stacked else done


def _unwrapped(value: Any) -> Any:
    """Arrays of objects or strings as lists, or as the one object they hold."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        return _unwrapped(value.tolist())
    if isinstance(value, list | tuple):
        return [_unwrapped(item) if isinstance(item, np.ndarray) else item for item in value]
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def _decoded(values: list[Any], names: list[str], single: bool, input_bits: int, limits: Limits) -> Batch:
    if input_bits:
        raise InputError(f"input_bits is for arrays of integers, and {names[0]} is an image file; leave it out")
    left, pictures = limits.encoded, []
    for value, name in zip(values, names, strict=True):
        content = _content(value, name, _BYTES_PER_PIXEL * limits.pixels + _SMALLEST_FILE)
        pictures.append(decode_image(content, name, min(left, limits.pixels)))
        left -= pictures[-1].luma.numel()
    return Batch(names, pictures, single, encoded=True, depth=max(picture.depth for picture in pictures))


def _content(value: str | bytes, name: str, most: int) -> bytes:
    longest = most if isinstance(value, bytes) else most * 3 // 2
    if len(value) > longest:
        raise InputError(f"{name} is {len(value)} bytes long, and at most {longest} are taken; send a smaller image")
    if isinstance(value, bytes):
        return value
    text = value.partition(";base64,")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{name} is a text, but not base64; give the base64 of a PNG or TIFF file") from None


def _arrays(value: Any, name: str) -> tuple[list[npt.NDArray[Any]], bool]:
    """Its arrays (H, W) or (H, W, 3), and whether it was one rather than a batch."""
    try:
        array = np.asarray(value)
    except ValueError:  # sizes that differ
        return [_numbers(item, f"{name}[{i}]") for i, item in enumerate(value)], False
    if array.ndim in (3, 4) and array.ndim - _is_colour(array) == 3:
        return list(_numbers(array, name)), False
    return [_numbers(array, name)], True


def _is_colour(array: npt.NDArray[Any]) -> bool:
    return array.ndim >= 3 and array.shape[-1] == 3


def _numbers(value: Any, name: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{name} has rows of different lengths; give {_FORMS}") from None
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} does not hold numbers; give {_FORMS}, or the base64 of an image file")
    if array.ndim - _is_colour(array) not in (2, 3):
        raise InputError(f"{name} has shape {array.shape}; give {_FORMS}")
    if array.size == 0:
        raise InputError(f"{name} has shape {array.shape}, so no pixels; give {_FORMS}")
    return array


def _check_pixels(array: npt.NDArray[Any], name: str, limits: Limits) -> None:
    if array.ndim - _is_colour(array) != 2:
        raise InputError(f"{name} has shape {array.shape}; give {_FORMS}")
    height, width = array.shape[:2]
    if height * width > limits.pixels:
        raise InputError(f"{name} has {width}x{height} pixels, and at most {limits.pixels} are taken; make it smaller")


def _bits(arrays: list[npt.NDArray[Any]], name: str, input_bits: int) -> int:
    """The bits of the levels that integers are, 0 of floats."""
    kinds = {array.dtype for array in arrays}
    if any(kind.kind == "f" for kind in kinds):
        if input_bits:
            raise InputError(f"input_bits is for integers, and {name} holds floats; leave it out, or give integers")
        return 0
    low, high = min(int(array.min()) for array in arrays), max(int(array.max()) for array in arrays)
    if not input_bits and high == 1 and not kinds <= set(_TYPED):
        raise InputError(
            f"{name} holds only the integers 0 and 1; say in the parameter input_bits whether they are black and white "
            "(1) or two of 256 levels (8)"
        )
    bits = input_bits or max(_TYPED.get(kind, 8) for kind in kinds)
    if low < 0 or high >= 2**bits:
        raise InputError(
            f"{name} has values from {low} to {high}, but {bits}-bit levels are 0 to {2**bits - 1}; "
            "say in the parameter input_bits how many bits they have"
        )
    return bits


def _picture(array: npt.NDArray[Any], name: str, bits: int) -> Picture:
    if bits == 0:
        if not np.isfinite(array).all():
            raise InputError(f"{name} has pixels that are not finite; replace them before fusing")
        if array.min() < 0 or array.max() > 1:
            raise InputError(
                f"{name} has values outside [0, 1]; give levels as integers, or divide 8-bit images by 255"
            )
        values = torch.from_numpy(array.astype(np.float32))
    else:
        precise = array.astype(np.float32 if bits <= 8 else np.float64)  # as `read_image` does
        values = torch.from_numpy((precise / (2**bits - 1)).astype(np.float32))
    depth: Literal[8, 16] = 8 if 0 < bits <= 8 else 16
    if values.ndim == 2:
        return Picture(values[None], depth=depth)
    if (values == values[..., :1]).all():
        return Picture(values[..., 0][None], depth=depth)
    return Picture(*split_colour(values.movedim(-1, 0)), depth=depth)


def _check_pair(a: Picture, b: Picture, names: list[str]) -> None:
    sizes = [f"{picture.luma.shape[2]}x{picture.luma.shape[1]}" for picture in (a, b)]
    if sizes[0] != sizes[1]:
        raise InputError(f"{names[0]} is {sizes[0]}, {names[1]} is {sizes[1]}; resample one to the other's size")
    if a.chroma is not None and b.chroma is not None:
        raise InputError(f"{names[0]} and {names[1]} are both in colour; convert one, the anatomical one, to grey")


def _array(picture: Picture, bits: int) -> npt.NDArray[Any]:
    luma, chroma = picture.luma.clamp(0, 1), picture.chroma
    pixels = luma[0] if chroma is None else join_colour(luma, chroma).movedim(0, -1)
    if bits == 32:
        return np.ascontiguousarray(pixels.numpy())
    return to_levels(pixels, cast(Literal[8, 16], bits))


def _png(picture: Picture, wanted: int, depth: int) -> str:
    colour = picture.chroma is not None
    if wanted == 32 or (colour and wanted == 16):
        holds = "8-bit colour" if colour else "8 or 16 bits"
        raise InputError(f"a PNG file holds {holds}, and output_bits is {wanted}; give 8, or encoding=array")
    bits: Literal[8, 16] = 8 if (wanted or depth) == 8 else 16
    return base64.b64encode(encode_png(replace(picture, depth=bits))).decode()
