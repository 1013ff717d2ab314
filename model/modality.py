"""Which modality a volume is of, by its own word, its values, or what lies beside it; and whether two are swapped."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from model.errors import InputError
from model.volumes import CT, MR, NM, OTHER, PET, Volume

FIRST = (CT, PET, NM)
# What a CT reaches unless it is cropped to the inside of the head.
BELOW_TISSUE_HU = -500

_NAMES = {CT: "CT", MR: "MR", PET: "PET", NM: "SPECT"}
# Suffixes of BIDS, and what people write; whole words of a file's name alone, letters in any case.
_WORDS = {
    CT: "ct",
    MR: "mr mri t1 t1w t2 t2w t2star t2starw pd pdw pdt2 flair swi dwi bold cbv sbref asl inplanet1 inplanet2 unit1",
    PET: "pet",
    NM: "spect",
}
_BY_WORD = {word: code for code, words in _WORDS.items() for word in words.split()}
_LONGEST_SIDECAR = 1 << 20


@dataclass(frozen=True)
class Evidence:
    """A modality as DICOM codes it, OTHER where nothing tells it, and what tells it."""

    code: str
    why: str

    def __str__(self) -> str:
        return f"{_NAMES[self.code]}, {self.why}" if self.code in _NAMES else self.why


def evidence(path: Path, volume: Volume) -> Evidence:
    """What tells the modality of a volume read from `path`: DICOM's header, air in its values, a sidecar, its name."""
    if volume.modality != OTHER:
        return Evidence(volume.modality, "as its header says")
    least = float(volume.pixels.min())
    if volume.is_ct:
        return Evidence(CT, f"as its values are Hounsfield units (least {least:g})")
    if code := said_beside(path):
        return Evidence(code, "as its name or the .json file beside it says")
    return Evidence(OTHER, "as given: nothing in it tells its modality")


def check_order(paths: tuple[Path, Path], volumes: tuple[Volume, Volume], remedy: str) -> tuple[Evidence, Evidence]:
    """What tells the modality of two volumes; raises InputError where it says that the second is the first's.

    That is: the first is MR and the second CT, PET or SPECT; or nothing tells the first, which has no value below
    -500, and the second is CT. `remedy` is what to do if they are not swapped.
    """
    first, second = (evidence(path, volume) for path, volume in zip(paths, volumes, strict=True))
    unlike_ct = first.code == OTHER and float(volumes[0].pixels.min()) >= BELOW_TISSUE_HU
    if (first.code == MR and second.code in FIRST) or (unlike_ct and second.code == CT):
        why = f"is {first}" if first.code == MR else f"has no value below {BELOW_TISSUE_HU}, as CT has"
        raise InputError(
            f"the volumes are swapped: the first, {paths[0]}, {why}; the second, {paths[1]}, is {second}; give CT, PET "
            f"or SPECT first and MR second, {remedy}"
        )
    return first, second


def said_beside(path: Path) -> str:
    """The code that the BIDS sidecar of a NIfTI file says, or its name; empty where neither does."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return ""
    return _sidecar(path) or _named(path)


def _sidecar(path: Path) -> str:
    """The code that the BIDS sidecar of a NIfTI file gives as "Modality"; nothing else of it is looked at."""
    beside = path.with_name(re.sub(r"\.nii(\.gz)?$", ".json", path.name, flags=re.IGNORECASE))
    try:
        if beside == path or not beside.is_file() or beside.stat().st_size > _LONGEST_SIDECAR:
            return ""
        said = json.loads(beside.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    code = said.get("Modality") if isinstance(said, dict) else None
    return code if isinstance(code, str) and code in _NAMES else ""


def _named(path: Path) -> str:
    """The code of the last word in a file's name that is one; two different ones tell nothing."""
    words = re.split(r"[^a-z0-9]+", path.name.lower())
    codes = [_BY_WORD[word] for word in words if word in _BY_WORD]
    return codes[-1] if len(set(codes)) == 1 else ""
