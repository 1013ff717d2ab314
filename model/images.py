"""Reading and writing images, grey or in colour: every way a file can be wrong becomes one clear line."""

import contextlib
import io
import logging
import os
import struct
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from model.errors import InputError

# Pillow logs what it then raises; unheard, it would stand on the user's terminal beside our one line.
logging.getLogger("PIL").addHandler(logging.NullHandler())

Pixels = npt.NDArray[np.uint8]

# Others either run a program (EPS), lose bits without saying so (JPEG 2000), or are no pictures.
FORMATS = ("PNG", "TIFF", "JPEG", "BMP", "GIF", "WEBP", "PPM")
EXTENSIONS = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"})
"""The endings of files that are taken for images where a folder is read."""
_DEEP_FORMATS = ("PNG", "TIFF")
_SAVING: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}

_EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")
_PHOTOMETRIC, _BITS = 262, 258

# BT.601, full range.
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114


@dataclass(frozen=True, eq=False)
class Picture:
    """An image taken apart into what is fused and the colour that is put back.

    `luma` is float32 (1, H, W) in [0, 1]; `chroma` is (2, H, W), Cb and Cr of BT.601 in [-0.5, 0.5], or None for a grey
    image; `depth` is the bits of a level in the file, 8 or 16.
    """

    luma: Tensor
    chroma: Tensor | None = None
    depth: Literal[8, 16] = 8


def read_image(path: Path) -> Picture:
    """Read a grey or colour image of 8 bits, or a grey one of 16.

    Levels are divided by the largest that the type can hold, 255 or 65535; a float TIFF must lie in [0, 1] and counts
    as 16 bits. A colour file whose three channels are equal is grey. An orientation in the file's EXIF is applied, as
    viewers do. Raises InputError, naming the file, for transparent pixels, several frames, pixels that are not finite,
    and whatever else it cannot be sure to understand.
    """
    return _picture(_load(path), path)


def decode_image(content: bytes, name: str, most_pixels: int) -> Picture:
    """The picture in the bytes of an image file, as `read_image` reads it from a disk; errors call it `name`.

    Raises InputError, before decoding, if its header claims more than `most_pixels` pixels.
    """
    return _picture(_decode(io.BytesIO(content), name, most_pixels), name)


def encode_png(picture: Picture) -> bytes:
    """The bytes of a PNG file of a picture, as `write_image` writes it."""
    stream = io.BytesIO()
    _rendered(picture).save(stream, format="PNG")
    return stream.getvalue()


def _picture(image: Image.Image, path: Path | str) -> Picture:
    if image.mode in _EIGHT_BIT:
        levels = torch.from_numpy(_levels(image, path).astype(np.float32) / 255)
        return Picture(levels[None]) if levels.ndim == 2 else Picture(*split_colour(levels.movedim(-1, 0)))
    if image.mode == "F" or image.mode.startswith("I"):
        return Picture(torch.from_numpy(_deep_grey(image, path))[None], depth=16)
    raise InputError(f"{path} has pixel mode {image.mode}; convert it to grey or RGB")


def write_image(path: Path, picture: Picture) -> None:
    """Write an image at its depth, 8-bit RGB if it has colour, every level rounded to the nearest.

    The file appears whole or not at all. Raises InputError if the folder or the file type cannot be written.
    """
    kind, image = writable_format(path, picture), _rendered(picture)

    def save(partial: Path) -> None:
        try:
            image.save(partial, format=kind, **_SAVING.get(kind, {}))
        except (ValueError, OverflowError, struct.error) as error:
            raise InputError(f"{path}: {kind} cannot hold this image ({error}); end the name in .png") from None

    write_atomically(path, save)


def _rendered(picture: Picture) -> Image.Image:
    if picture.chroma is not None:
        array = to_levels(join_colour(picture.luma, picture.chroma).movedim(0, -1), 8)
    else:
        array = to_levels(picture.luma[0], picture.depth)
    return Image.fromarray(np.ascontiguousarray(array))


def to_levels(image: Tensor, bits: Literal[8, 16]) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """An image in [0, 1] as integers of 8 or 16 bits, every level rounded to the nearest."""
    if bits == 8:
        return _rounded(image, 255).astype(np.uint8)
    return _rounded(image, 65535).astype(np.uint16)


def writable_format(path: Path, picture: Picture) -> str:
    """Pillow's name of the format that a file name ends in; raises InputError if it cannot hold such a picture."""
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    if kind not in FORMATS:
        raise InputError(f"cannot tell an image format from {path.name or str(path)!r}; end the name in .png")
    if picture.chroma is not None and kind == "GIF":
        raise InputError(f"{path}: GIF has no true colour; end the name in .png")
    if picture.chroma is None and picture.depth == 16 and kind not in _DEEP_FORMATS:
        raise InputError(f"{path}: {kind} has no 16-bit grey; end the name in .png or .tif, or give 8-bit images")
    return kind


def split_colour(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """The luma (1, H, W) in [0, 1] and the chroma (2, H, W) in [-0.5, 0.5] of an RGB image (3, H, W) in [0, 1].

    Source: ITU-R BT.601, full range.
    """
    red, green, blue = rgb
    luma = _RED * red + _GREEN * green + _BLUE * blue
    return luma[None], torch.stack(((blue - luma) / (2 - 2 * _BLUE), (red - luma) / (2 - 2 * _RED)))


def join_colour(luma: Tensor, chroma: Tensor) -> Tensor:
    """The RGB image (3, H, W) of a luma (1, H, W) and a chroma (2, H, W), clamped to [0, 1]; undoes `split_colour`."""
    cb, cr = chroma
    blue, red = luma[0] + (2 - 2 * _BLUE) * cb, luma[0] + (2 - 2 * _RED) * cr
    return torch.stack((red, (luma[0] - _RED * red - _BLUE * blue) / _GREEN, blue)).clamp(0, 1)


def read_grey(path: Path) -> Tensor:
    """Read an 8-bit grey image.

    Returns a float32 tensor of shape (1, H, W) in [0, 1]. A colour file is accepted if it is grey in all but name:
    its three channels are equal and it is opaque. Raises InputError for anything else, naming the file.
    """
    return torch.from_numpy(read_grey_bytes(path).astype(np.float32) / 255.0)[None]


def read_grey_bytes(path: Path) -> Pixels:
    """Read an 8-bit grey image as uint8 of shape (H, W); the conditions and errors are those of `read_grey`."""
    image = _load(path)
    if image.mode not in _EIGHT_BIT:
        raise InputError(f"{path} has pixel mode {image.mode}; convert it to 8-bit grey (mode L)")
    levels = _levels(image, path)
    if levels.ndim == 3:
        raise InputError(f"{path} is in colour (mode {image.mode}); convert it to 8-bit grey")
    return levels


def read_luma_bytes(path: Path) -> tuple[Pixels, Pixels]:
    """Read an 8-bit image in colour or grey as luma (H, W) and chroma (2, H, W), Cb and Cr about 128, uint8 each.

    Levels are rounded to the nearest; a grey image has a chroma of 128. Raises InputError as `read_image` does, and for
    images of more than 8 bits.
    """
    picture = read_image(path)
    if picture.depth != 8:
        raise InputError(f"{path} has 16 bits a pixel; convert it to 8-bit colour or grey")
    luma = _rounded(picture.luma[0], 255).astype(np.uint8)
    if picture.chroma is None:
        return luma, np.full((2, *luma.shape), 128, np.uint8)
    return luma, ((picture.chroma.double() * 255).round() + 128).clamp(0, 255).byte().numpy()


def join_bytes(luma: Pixels, chroma: Pixels) -> Pixels:
    """The RGB image (H, W, 3) of a luma (H, W) and a chroma (2, H, W), uint8 as `read_luma_bytes` gives them."""
    colour = join_colour(
        torch.from_numpy(luma.astype(np.float32) / 255)[None],
        torch.from_numpy((chroma.astype(np.float32) - 128) / 255),
    )
    return _rounded(colour.movedim(0, -1), 255).astype(np.uint8)


def _load(path: Path) -> Image.Image:
    try:
        with path.open("rb") as stream:
            return _decode(stream, path)
    except FileNotFoundError:
        raise InputError(f"no such image: {path}; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name one image file") from None
    except PermissionError:
        raise InputError(f"{path} may not be read; check its permissions") from None
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); check the path") from None
    except ValueError:
        raise InputError(f"{path} is no path, as it holds a null byte; give the path of an image file") from None


def _decode(stream: IO[bytes], path: Path | str, most_pixels: int | None = None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=FORMATS)
            if most_pixels is not None and image.width * image.height > most_pixels:
                raise InputError(
                    f"{path} has {image.width}x{image.height} pixels, and at most {most_pixels} are taken; "
                    "crop it, make it smaller or send fewer at once"
                )
            _check_kind(image, path)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return image
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image this program reads; give a PNG or TIFF file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{path} claims more pixels than any slice has; give an image of ordinary size") from None
    except (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, struct.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be opened ({error.strerror}); check the path") from None
        raise InputError(f"{path} is a damaged image file ({error}); fetch it again") from None


def _check_kind(image: Image.Image, path: Path | str) -> None:
    """Refuse what Pillow would read as less than it is: one frame of several, 16-bit colour as 8-bit."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(f"{path} holds {frames} frames; save the one to use as a PNG file")
    tiles = cast(ImageFile.ImageFile, image).tile
    deep = any(";16" in str(tile.args) for tile in tiles)
    deep = deep or any(tile.codec_name.startswith("ppm") and int(tuple(tile.args or (0,))[-1]) > 255 for tile in tiles)
    if image.mode in _EIGHT_BIT and deep:
        raise InputError(f"{path} has more than 8 bits a channel in colour or with transparency; convert it to 8-bit")


def _levels(image: Image.Image, path: Path | str) -> Pixels:
    """The levels of an 8-bit image: (H, W) if it is grey, (H, W, 3) if in colour; InputError if it is not opaque."""
    if image.mode == "L" and not image.has_transparency_data:
        return np.array(image)
    if image.has_transparency_data:
        if np.array(image.convert("RGBA"))[..., 3].min() < 255:
            raise InputError(f"{path} has transparent pixels; flatten it onto a background")
        colour = np.array(image.convert("RGBA"))[..., :3]
    else:
        colour = np.array(image.convert("RGB"))
    grey = (colour == colour[..., :1]).all()
    return np.ascontiguousarray(colour[..., 0] if grey else colour)


def _deep_grey(image: Image.Image, path: Path | str) -> npt.NDArray[np.float32]:
    """A grey image of more than 8 bits as float32 (H, W) in [0, 1]."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == 0:
        raise InputError(f"{path} stores white as zero at more than 8 bits; invert it and save it as a PNG file")
    values = np.array(image)
    if image.info.get("transparency") is not None and (values == image.info["transparency"]).any():
        raise InputError(f"{path} has transparent pixels; flatten it onto a background")
    if not np.isfinite(values).all():
        raise InputError(f"{path} has pixels that are not finite; replace them before fusing")
    top = 1 if image.mode == "F" else 4095 if tags.get(_BITS) == (12,) else 65535
    if values.min() < 0 or values.max() > top:
        low, high = (f"{value:g}" for value in (values.min(), values.max()))
        raise InputError(f"{path} has values from {low} to {high}; scale them to 0..{top}")
    return cast(npt.NDArray[np.float32], (values / np.float64(top)).astype(np.float32))


def _rounded(image: Tensor, top: int) -> npt.NDArray[np.float64]:
    # By NumPy, since torch would start threads of its own in every thread that reads or writes images.
    return cast(npt.NDArray[np.float64], (image.cpu().numpy().astype(np.float64).clip(0, 1) * top).round())


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file aside, then move it into place; raises InputError if that place cannot be written."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file to write")
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from None
    os.close(handle)
    partial = Path(name)
    try:
        write(partial)
        partial.chmod(new_file_mode(0o666))
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file that is there."""
    try:
        return a.samefile(b)
    except (OSError, ValueError):
        return False


def new_file_mode(wanted: int) -> int:
    """The permissions that a new file gets which asks for `wanted`."""
    mask = os.umask(0)
    os.umask(mask)
    return wanted & ~mask
