"""NIfTI files as volumes, sliced nearest to axial, and fused volumes as NIfTI files in the space of their source."""

import gzip
import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from model.errors import InputError
from model.images import write_atomically
from model.volumes import ALIGNED, OTHER, Affine, Volume, check_size, check_values

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

Dtype = Literal["uint8", "float32"]

# NIfTI's codes of spaces; an "aligned" one is that of another file, which the header does not name.
_FRAMES = {1: "scanner", 2: ALIGNED, 3: "talairach", 4: "mni"}
_CODES = {"scanner": 1, ALIGNED: 2, "talairach": 3, "mni": 4}
_HEADERS = {348: "Nifti1Header", 540: "Nifti2Header"}
_AXIAL = (("L", "R"), ("P", "A"), ("I", "S"))
_UNITS_MM = {"meter": 1000.0, "mm": 1.0, "unknown": 1.0, "micron": 0.001}
_STATEMENT = "fused by atlas-fusion, not for diagnosis"


def read_nifti(path: Path, modality: str = "") -> Volume:
    """Read a NIfTI file of three dimensions; the conditions and errors are those of `read_volume`.

    Only the fixed header and the voxels are read, never the description of the patient that extensions may hold. Axes
    are permuted and flipped, not resampled, until columns go to the patient's left, rows back and slices up. The
    header's scale slope and intercept are applied; lengths are brought to millimetres.
    """
    where = str(path)
    with _reading(where), _bytes_of(path) as stream:
        header = _read_header(stream, where)
        shape, affine, frame = _shape(header, where), _affine(header), _frame(header)
        order = _order(affine, where)
        pixels = np.empty(tuple(shape[int(axis)] for axis in np.argsort(order[:, 0])[::-1]), dtype=np.float32)
        _fill(_as_stored(pixels, order), stream, header, where)
    return check_values(Volume(pixels, _reordered(affine, order, shape), modality or OTHER, frame), where)


def write_nifti(path: Path, volume: Volume, dtype: Dtype = "float32", like: Path | None = None) -> None:
    """Write a volume of values in [0, 1] as .nii or .nii.gz: float32 as they are, uint8 in levels of 0 to 255.

    The file is in millimetres and says nothing but the geometry and that it is fused and not for diagnosis. With
    `like`, a NIfTI file that the volume came from, its axes are stored in that file's order. The file appears whole or
    not at all; raises InputError if it cannot be written.
    """
    import nibabel

    stored, affine = volume.pixels.transpose(2, 1, 0), volume.affine
    if like is not None:
        with _reading(str(like)), _bytes_of(like) as stream:
            header = _read_header(stream, str(like))
            original = _affine(header)
            order = _order(original, str(like))
            stored, affine = _as_stored(volume.pixels, order), original
    data = np.rint(stored * 255).astype(np.uint8) if dtype == "uint8" else stored
    image = nibabel.Nifti1Image(data, affine)
    code = _CODES.get(volume.frame, 1 if volume.frame else 0)
    image.set_sform(affine, code)
    # A quaternion cannot hold a sheared stack.
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    image.set_qform(affine, code if np.allclose(axes.T @ axes, np.eye(3), atol=1e-4) else 0)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = _STATEMENT.encode()
    image.header["cal_max"] = 255 if dtype == "uint8" else 1

    def save(partial: Path) -> None:
        with partial.open("wb") as stream:
            if not path.name.lower().endswith(".gz"):
                image.to_stream(stream)
                return
            # Neither a name nor a time beside the content.
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=6) as compressed:
                image.to_stream(compressed)

    write_atomically(path, save)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn whatever a hostile file makes nibabel raise, warn or log into one line that quotes nothing of it."""
    import nibabel.imageglobals

    logger: logging.Logger = nibabel.imageglobals.logger
    heard, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{where} is cut short or damaged; fetch it again") from None
    except OSError as error:
        reason = error.strerror or "damaged"
        raise InputError(f"{where} cannot be read ({reason}); check its permissions, or fetch it again") from None
    except Exception as error:  # nibabel raises nearly everything on a damaged header
        raise InputError(f"{where} is damaged NIfTI ({type(error).__name__}); fetch it again") from None
    finally:
        logger.disabled = heard


@contextmanager
def _bytes_of(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, decompressed as far as it is read, so that a bomb costs no more than its header claims."""
    with path.open("rb") as raw:
        if raw.read(2) == b"\x1f\x8b":
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) as stream:
                yield io.BufferedReader(stream)  # type: ignore[type-var]
        else:
            raw.seek(0)
            yield raw


def _read_header(stream: IO[bytes], where: str) -> "Nifti1Header":
    import nibabel

    start = stream.read(4)
    size = next((size for size in _HEADERS for end in ("little", "big") if start == size.to_bytes(4, end)), None)  # type: ignore[arg-type]
    block = start + stream.read((size or 4) - 4)
    if size is None or len(block) < size:
        raise InputError(f"{where} is no NIfTI file, or its beginning is lost; give a .nii or .nii.gz file")
    header: Nifti1Header = getattr(nibabel, _HEADERS[size])(block, check=True)
    if not header["magic"].item().startswith(b"n+"):
        raise InputError(f"{where} keeps its voxels in another file; convert it to one .nii file")
    return header


def _shape(header: "Nifti1Header", where: str) -> tuple[int, int, int]:
    dims = tuple(int(side) for side in header.get_data_shape())
    while len(dims) > 3 and dims[-1] == 1:
        dims = dims[:-1]
    if len(dims) != 3:
        advice = "give one of its volumes (fslroi, or nibabel.four_to_three)" if len(dims) > 3 else "give a volume"
        raise InputError(f"{where} has {len(dims)} dimensions, not 3; {advice}")
    if header.get_data_dtype().kind not in "iuf":
        raise InputError(f"{where} holds colour or complex voxels; give real grey values")
    check_size((dims[2], dims[1], dims[0]), where)
    return dims[0], dims[1], dims[2]


def _affine(header: "Nifti1Header") -> Affine:
    """The header's affine of its stored axes, in mm."""
    scale = _UNITS_MM[header.get_xyzt_units()[0]]
    return np.diag([scale, scale, scale, 1.0]) @ np.asarray(header.get_best_affine(), dtype=np.float64)


def _frame(header: "Nifti1Header") -> str:
    return _FRAMES.get(int(header["sform_code"]) or int(header["qform_code"]), "")


def _order(affine: Affine, where: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """For each stored axis, to which of (columns, rows, slices) it goes and whether as it is (1) or flipped (-1)."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise InputError(f"{where} has no usable geometry: its axes do not span space; correct its header")
    return np.asarray(ornt_transform(io_orientation(affine), axcodes2ornt("LPS")))


def _as_stored(pixels: "np.ndarray[Any, Any]", order: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """A view of a volume (D, H, W) with its axes in the order and direction of the file."""
    flips = {int(axis): slice(None, None, int(way)) for axis, way in order}
    columns_first = pixels.transpose(2, 1, 0)[flips[0], flips[1], flips[2]]
    return columns_first.transpose([int(axis) for axis in order[:, 0]])


def _reordered(affine: Affine, order: "np.ndarray[Any, Any]", shape: tuple[int, int, int]) -> Affine:
    from nibabel.orientations import inv_ornt_aff

    return np.asarray(affine @ inv_ornt_aff(order, shape), dtype=np.float64)


def _fill(stored: "np.ndarray[Any, Any]", stream: IO[bytes], header: "Nifti1Header", where: str) -> None:
    """Read the voxels plane by plane into a view of the stored axes, rescaled."""
    slope, intercept = header.get_slope_inter()
    dtype, (columns, rows, planes) = header.get_data_dtype(), stored.shape
    _skip(stream, int(header["vox_offset"]) - int(header["sizeof_hdr"]), where)
    size = columns * rows * dtype.itemsize
    for plane in range(planes):
        if len(block := stream.read(size)) < size:
            raise InputError(f"{where} is cut short: {plane} of {planes} planes of voxels are there; fetch it again")
        values = np.frombuffer(block, dtype).reshape((columns, rows), order="F").astype(np.float64)
        stored[:, :, plane] = values * (1.0 if slope is None else slope) + (0.0 if intercept is None else intercept)


def _skip(stream: IO[bytes], count: int, where: str) -> None:
    """Pass over header extensions, unread."""
    if count < 0:
        raise InputError(f"{where} says that its voxels lie within its header; fetch it again")
    while count > 0 and (block := stream.read(min(count, 1 << 20))):
        count -= len(block)
