"""DICOM series as volumes: only pixels and geometry are taken, and every way a file can be wrong is one clear line."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.dicom_files import MAX_FILES, dicom_files, open_dataset, place_of, reading
from model.errors import InputError
from model.stacks import Slice, stack
from model.volumes import CT, MODALITIES, OTHER, PET, Pixels, Volume, check_size, check_values

if TYPE_CHECKING:
    from pydicom import Dataset

_FARTHEST_MM = 1e6
_UID = re.compile(r"[0-9.]{1,64}")
_PIXEL_TAGS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
_PADDING_TAGS = ("PixelPaddingValue", "PixelPaddingRangeLimit")
# Nothing else is ever decoded, so nothing else can be told; of PatientID and StudyInstanceUID only a hash is kept.
_HEADER_TAGS = (
    *_PIXEL_TAGS,
    *("SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "ImageType", "BurnedInAnnotation"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "DetectorInformationSequence", "NumberOfSlices"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PatientID", "StudyInstanceUID"),
)
_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")


@dataclass(frozen=True)
class _Header:
    """What one file says of its series, and its slices; `whose` is a salted hash of patient and study, to compare."""

    series: str
    whose: int
    modality: str
    frame: str
    localizer: bool
    clean: bool
    slices: tuple[Slice, ...]


def read_dicom(path: Path, modality: str = "") -> Volume:
    """Read the DICOM series in a folder, or one file; the conditions and errors are those of `read_volume`.

    Slices are ordered by their position along the normal; rescale slope and intercept are each slice's own. Images
    stored with white as zero (MONOCHROME1) are inverted, but for CT and PET, whose rescaled values are absolute.
    Pixels that the header calls padding take the least value of the others.
    """
    files = dicom_files(path) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no DICOM file; give a folder of DICOM files, or a .dcm, .nii or .nii.gz file")
    if len(files) > MAX_FILES:
        raise InputError(f"{path} holds more than {MAX_FILES} DICOM files; put the one series in a folder of its own")
    headers = [
        header for number in range(len(files)) if (header := _read_header(files, number, path)) and header.slices
    ]
    if not headers:
        raise InputError(f"{path} holds no DICOM image; give the series' image files")
    series = _choose(headers, modality, path)
    if len({header.whose for header in series}) > 1:
        raise InputError(f"{path} has files of more than one patient or study in one series; separate them")
    slices, affine = stack([each for header in series for each in header.slices], str(path))
    check_size((len(slices), *slices[0].shape), str(path))
    frames = {header.frame for header in series}
    if len(frames) > 1:
        raise InputError(f"{path} is one series with {len(frames)} frames of reference; separate them")
    pixels = _read_pixels(files, slices, path)
    volume = Volume(pixels, affine, series[0].modality, frames.pop(), all(header.clean for header in series))
    return check_values(volume, str(path))


def _read_header(files: list[Path], number: int, path: Path) -> _Header | None:
    """The header of one file; None where it is no image, such as a report or a presentation state."""
    where = place_of(files, number, path)
    with reading(where):
        dataset = open_dataset(files[number], _HEADER_TAGS, where)
        if "Rows" not in dataset and "Columns" not in dataset and path != files[number] and not _claims_image(dataset):
            return None
        _check_kind(dataset, where)
        modality = str(dataset.get("Modality") or "").strip().upper()
        frame = str(dataset.get("FrameOfReferenceUID") or "").strip()
        kinds = dataset.get("ImageType") or ()
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        return _Header(
            series=str(dataset.get("SeriesInstanceUID") or ""),
            whose=hash((str(dataset.get("PatientID") or ""), str(dataset.get("StudyInstanceUID") or ""))),
            modality=modality if modality in MODALITIES else OTHER,
            frame=frame if _UID.fullmatch(frame) else "",
            localizer="LOCALIZER" in kinds,
            clean=dataset.get("BurnedInAnnotation") == "NO",
            slices=tuple(_slices(dataset, number, modality, where)),
        )


def _claims_image(dataset: "Dataset") -> bool:
    from pydicom.uid import UID

    return "Image Storage" in UID(str(dataset.file_meta.get("MediaStorageSOPClassUID") or "")).name


def _check_kind(dataset: "Dataset", where: str) -> None:
    absent = [
        tag for tag in _PIXEL_TAGS if tag not in ("NumberOfFrames", "SamplesPerPixel") and dataset.get(tag) is None
    ]
    if absent:
        raise InputError(f"{where} holds no image that can be read: its header lacks {', '.join(absent)}")
    photometric = str(dataset.PhotometricInterpretation).strip()
    if dataset.get("SamplesPerPixel", 1) != 1 or photometric in _COLOURS:
        kind = f" ({photometric})" if photometric in _COLOURS else ""
        raise InputError(f"{where} is in colour{kind}; give the grey images it was made from")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(f"{where} is of an unknown photometric interpretation; give MONOCHROME1 or MONOCHROME2")
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise InputError(f"{where} has pixels of {stored} bits in {allocated}; give 8, 16 or 32 bits")
    if str(dataset.get("BurnedInAnnotation")).strip() == "YES":
        raise InputError(f"{where} says that text is burned into its pixels, which may identify the patient; remove it")
    if dataset.get("ModalityLUTSequence"):
        raise InputError(f"{where} rescales by a lookup table; convert it to slope and intercept")


def _slices(dataset: "Dataset", file: int, modality: str, where: str) -> Iterator[Slice]:
    count = int(dataset.get("NumberOfFrames") or 1)
    check_size((count, int(dataset.Rows), int(dataset.Columns)), where)
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    # In PET's single images, NumberOfSlices is that of the whole series.
    stack_of = count if count == 1 else int(dataset.get("NumberOfSlices") or count)
    if len(frames or ()) not in (0, count) or stack_of != count:
        raise InputError(f"{where} holds {count} frames that are not one stack of slices; export one volume alone")
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1" and modality not in (CT, PET)
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    if frames:
        for index, own in enumerate(frames):
            yield _slice(dataset, [own, *shared], file, index, inverted, where)
        return
    # Frames without a place of their own, as in nuclear medicine, follow one another along the normal.
    first = _slice(dataset, shared, file, 0, inverted, where)
    step = _number(dataset, shared, "PixelMeasuresSequence", "SpacingBetweenSlices", 0.0)
    forwards = step * np.cross(first.orientation[:3], first.orientation[3:])
    for index, position in enumerate(first.position + np.arange(count)[:, None] * forwards):
        yield replace(first, index=index, position=tuple(position.tolist()))


def _slice(dataset: "Dataset", groups: list["Dataset"], file: int, index: int, inverted: bool, where: str) -> Slice:
    position = _numbers(dataset, groups, "PlanePositionSequence", "ImagePositionPatient", 3, where)
    orientation = _numbers(dataset, groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6, where)
    rows, columns = _numbers(dataset, groups, "PixelMeasuresSequence", "PixelSpacing", 2, where)
    thickness = _number(dataset, groups, "PixelMeasuresSequence", "SpacingBetweenSlices", 0.0)
    thickness = thickness or _number(dataset, groups, "PixelMeasuresSequence", "SliceThickness", 0.0)
    slope = _number(dataset, groups, "PixelValueTransformationSequence", "RescaleSlope", 1.0)
    intercept = _number(dataset, groups, "PixelValueTransformationSequence", "RescaleIntercept", 0.0)
    if slope == 0 or not (math.isfinite(slope) and math.isfinite(intercept)):
        raise InputError(f"{where} has a rescale slope of 0 or one that is not finite; export it again")
    lengths = (*position, *orientation, rows, columns, thickness)
    if not all(math.isfinite(length) and abs(length) < _FARTHEST_MM for length in lengths):
        raise InputError(f"{where} has a geometry that is not finite or out of any room; export it again")
    return Slice(
        *(file, index, (int(dataset.Rows), int(dataset.Columns)), position, orientation),
        *((rows, columns), abs(thickness) or 1.0, (slope, intercept), inverted),
    )


def _find(dataset: "Dataset", groups: list["Dataset"], sequence: str, keyword: str) -> Any:
    """A value from the functional groups of a frame, or the file's own, or that of its detector."""
    detector = list(dataset.get("DetectorInformationSequence") or [])[:1]
    items = [item for group in groups for item in list(group.get(sequence) or [])[:1]]
    return next((value for item in (*items, dataset, *detector) if (value := item.get(keyword)) is not None), None)


def _numbers(
    dataset: "Dataset", groups: list["Dataset"], sequence: str, keyword: str, count: int, where: str
) -> tuple[float, ...]:
    found = _find(dataset, groups, sequence, keyword)
    if found is None or isinstance(found, str | float) or len(found) != count:
        raise InputError(f"{where} does not say its {keyword}, so its place in the patient is unknown; export it again")
    return tuple(float(value) for value in found)


def _number(dataset: "Dataset", groups: list["Dataset"], sequence: str, keyword: str, default: float) -> float:
    found = _find(dataset, groups, sequence, keyword)
    return default if found is None else float(found)


def _choose(headers: list[_Header], modality: str, path: Path) -> list[_Header]:
    """The files of the one series to use: without localizers, and of the modality if there are several."""
    headers = [header for header in headers if not header.localizer] or headers
    series: dict[str, list[_Header]] = {}
    for header in headers:
        series.setdefault(header.series, []).append(header)
    fitting = [each for each in series.values() if each[0].modality == modality]
    if len(series) > 1 and len(fitting) != 1:
        told = ", ".join(
            f"{each[0].modality} with {sum(len(header.slices) for header in each)} slices" for each in series.values()
        )
        raise InputError(f"{path} holds {len(series)} series: {told}; put the one to use in a folder of its own")
    return fitting[0] if len(series) > 1 else next(iter(series.values()))


def _read_pixels(files: list[Path], slices: list[Slice], path: Path) -> Pixels:
    pixels = np.empty((len(slices), *slices[0].shape), dtype=np.float32)
    padding: dict[int, Any] = {}
    places: dict[int, dict[int, int]] = {}
    for place, each in enumerate(slices):
        places.setdefault(each.file, {})[each.index] = place
    for number, wanted in places.items():
        where = place_of(files, number, path)
        with reading(where):
            dataset = open_dataset(files[number], (*_PIXEL_TAGS, *_PADDING_TAGS, "PixelData"), where)
            _check_pixels(dataset, len(wanted) * math.prod(slices[0].shape), where)
            decoded = 0
            for index, stored in enumerate(_decoded(dataset)):
                each, decoded = slices[wanted[index]], index + 1
                pixels[wanted[index]] = _rescaled(stored, each, dataset)
                if (padded := _padding(stored, dataset)) is not None:
                    padding[wanted[index]] = padded
            if decoded != len(wanted):
                raise InputError(f"{where} has {decoded} frames, its header says {len(wanted)}; export it again")
    _fill_padding(pixels, padding)
    return pixels


def _padding(stored: Any, dataset: "Dataset") -> Any:
    """Which stored values are padding, bool (H, W); None where none is, or all are. Source: DICOM PS3.3 C.7.5.1.1.2."""
    if dataset.get("PixelPaddingValue") is None:
        return None
    bits, signed = int(dataset.BitsAllocated), bool(dataset.PixelRepresentation)
    ends = []
    for tag in _PADDING_TAGS:
        # Some write a signed value as unsigned.
        end = int(dataset.PixelPaddingValue if dataset.get(tag) is None else dataset[tag].value) & (2**bits - 1)
        ends.append(end - 2**bits if signed and end >= 2 ** (bits - 1) else end)
    found = (stored >= min(ends)) & (stored <= max(ends))
    return found if found.any() else None


def _fill_padding(pixels: Pixels, padding: dict[int, Any]) -> None:
    """Give padding, by slice, the least of all other values, so that it neither shows nor counts for the range."""
    if not padding:
        return
    least = [image[~padding[place]] if place in padding else image.ravel() for place, image in enumerate(pixels)]
    least = [float(values.min()) for values in least if values.size]
    for place, padded in padding.items():
        pixels[place][padded] = min(least, default=0.0)


def _check_pixels(dataset: "Dataset", count: int, where: str) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    if not dataset.get("PixelData"):
        raise InputError(f"{where} has no pixel data; export it with its images")
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID") or "")
    try:
        readable = syntax.is_transfer_syntax and "Deflated" not in syntax.name and get_decoder(syntax).is_available
    except (NotImplementedError, ValueError):
        readable = False
    if not readable:
        kind = syntax.name if syntax.name != syntax else "in an unknown way"
        raise InputError(
            f"{where} is compressed ({kind}), which cannot be read here; decompress it (dcmdjpeg, gdcmconv -w)"
        )
    needed = count * int(dataset.BitsAllocated) // 8
    if not syntax.is_compressed and len(dataset.PixelData) < needed:
        raise InputError(
            f"{where} has {len(dataset.PixelData)} bytes of pixels, its header says {needed}; export it again"
        )


def _decoded(dataset: "Dataset") -> Iterator[Any]:
    from pydicom.pixels.utils import iter_pixels

    return iter_pixels(dataset, raw=True)


def _rescaled(stored: Any, each: Slice, dataset: "Dataset") -> Any:
    if stored.shape != each.shape:
        raise ValueError("decoded to another size")
    values = stored.astype(np.float64)
    if each.inverted:
        # The least and the largest level add up to 2^bits - 1, or to -1 where levels are signed.
        values = (-1 if dataset.PixelRepresentation else 2**dataset.BitsStored - 1) - values
    slope, intercept = each.rescale
    return values * slope + intercept
