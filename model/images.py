"""Reading and writing grey images: every way a file can be wrong becomes one clear line."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from model.errors import InputError

Pixels = npt.NDArray[np.uint8]


def read_grey(path: Path) -> Tensor:
    """Read an 8-bit grey image.

    Returns a float32 tensor of shape (1, H, W) in [0, 1]. A colour file is accepted if it is grey in all but name:
    its three channels are equal and it is opaque. Raises InputError for anything else, naming the file.
    """
    return torch.from_numpy(read_grey_bytes(path).astype(np.float32) / 255.0)[None]


def read_grey_bytes(path: Path) -> Pixels:
    """Read an 8-bit grey image as uint8 of shape (H, W); the conditions and errors are those of `read_grey`."""
    try:
        with path.open("rb") as stream, Image.open(stream) as image:
            image.load()
            return _grey(image, path)
    except FileNotFoundError:
        raise InputError(f"no such image: {path}; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name one image file") from None
    except PermissionError:
        raise InputError(f"{path} may not be read; check its permissions") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image this program reads; give an 8-bit grey PNG") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path} claims more pixels than any slice has; give an image of ordinary size") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is damaged or no path ({error}); fetch it again") from None


def _grey(image: Image.Image, path: Path) -> Pixels:
    if image.mode == "L":
        return np.array(image)
    if image.mode in ("RGB", "RGBA", "LA", "P", "1"):
        colour = np.array(image.convert("RGBA"))
        red, green, blue, opacity = np.moveaxis(colour, -1, 0)
        if (red == green).all() and (green == blue).all() and (opacity == 255).all():
            return np.ascontiguousarray(red)
        raise InputError(f"{path} is in colour (mode {image.mode}); convert it to 8-bit grey")
    raise InputError(f"{path} has pixel mode {image.mode}; convert it to 8-bit grey (mode L)")


def write_grey(path: Path, image: Tensor) -> None:
    """Write a float image of shape (1, H, W) in [0, 1] as 8-bit grey, rounded to the nearest level.

    The file appears whole or not at all. Raises InputError if the folder or the file type cannot be written.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise InputError(f"cannot tell an image format from {path.name!r}; end the name in .png")
    levels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    picture = Image.fromarray(levels)
    write_atomically(path, lambda partial: picture.save(partial, format=kind))


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
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
