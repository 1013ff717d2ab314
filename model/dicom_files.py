"""DICOM files found and opened, however hostile: bounded in size, and silent about what they hold."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_FILE_BYTES = 2**29
MAX_FILES = 20_000

_MAGIC_AT, _MAGIC = 128, b"DICM"
_DEFLATED = "1.2.840.10008.1.2.1.99"


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's mark at byte 128."""
    try:
        if not path.is_file():  # a pipe would keep whoever opens it waiting
            return False
        with path.open("rb") as stream:
            return stream.read(_MAGIC_AT + 4)[_MAGIC_AT:] == _MAGIC
    except OSError:
        return False


def dicom_files(folder: Path, limit: int = MAX_FILES + 1) -> list[Path]:
    """The DICOM files under a folder by path, `limit` of them at most.

    Others are passed over, but not a .dcm without DICOM's mark, nor a file that may not be read.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if name.startswith(".") or name.upper() == "DICOMDIR":
                continue
            if is_dicom(path) or name.lower().endswith(".dcm") or not os.access(path, os.R_OK):
                found.append(path)
            if len(found) == limit:
                return found
    return found


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn whatever a hostile file makes pydicom raise, warn or log into one line that quotes nothing of it."""
    logger = logging.getLogger("pydicom")
    heard, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or "damaged"
        raise InputError(f"{where} cannot be read ({reason}); check its permissions, or export it again") from None
    except Exception as error:  # pydicom and its decoders raise nearly everything on damaged bytes
        raise InputError(f"{where} is damaged DICOM ({type(error).__name__}); export it again") from None
    finally:
        logger.propagate = heard


def place_of(files: list[Path], number: int, path: Path) -> str:
    """A file as messages name it: a name that the user has not typed may hold a patient's."""
    return str(path) if files == [path] else f"{path}: DICOM file {number + 1} of {len(files)} (by path)"


def open_dataset(path: Path, tags: tuple[str, ...], where: str) -> "Dataset":
    """The tags of these keywords in a file, and nothing else of it; to be called within `reading`."""
    import pydicom
    from pydicom.filereader import read_file_meta_info

    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{where} is larger than {MAX_FILE_BYTES >> 20} MiB; give the series as smaller files")
    # Whole, since a length that the header claims is then read only as far as there are bytes.
    content = path.read_bytes()
    if content[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise InputError(f"{where} is no DICOM file, or its beginning is lost; export it again")
    meta = read_file_meta_info(path)
    # pydicom inflates the whole file at once, however large it becomes.
    if meta.get("TransferSyntaxUID") == _DEFLATED:
        raise InputError(f"{where} is deflated; convert it to Explicit VR Little Endian (dcmconv +te)")
    return pydicom.dcmread(io.BytesIO(content), specific_tags=list(tags))
