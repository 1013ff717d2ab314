"""What the validation judges: one row of plain measurements for every image that the manifest lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.progress import Progress
from components.validate.alignment import Thumbnail, thumbnail
from components.validate.pairing import pair_up
from components.validate.reading import Slice, read_slice
from model.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# The darkest 2 % of the 8-bit range: the air around a head, with the noise a scanner or an old JPEG left in it.
BACKGROUND_LEVEL = 5
# Where a brain window shows bone: saturated, but for the blur at its edge.
BONE_LEVEL = 230
TISSUE_LEVEL = 12
_KEYS = ("path", "modality", "name", "subject")
_MEASUREMENTS = {
    "width": "Int64",
    "height": "Int64",
    "mode": "object",
    "bit_depth": "Int64",
    "min": "Int64",
    "max": "Int64",
    "mean": "Float64",
    "background": "Float64",
    "entropy": "Float64",
    "sharpness": "Float64",
    "bone": "Float64",
    "sha256": "object",
    "problem": "object",
}


def measure_images(folder: Path) -> pd.DataFrame:
    """Open every image of an ingested folder once and measure it.

    The table keeps the manifest's columns and order and adds, per image: `width` and `height` in pixels; `mode`,
    Pillow's name of the pixel format ("L" is 8-bit grey); `bit_depth`, bits a sample in the file; `min`, `max` and
    `mean` in grey levels, of colour the luma's; `background`, the share of pixels at or below `BACKGROUND_LEVEL`;
    `entropy` of the grey levels in bits; `sharpness`, the energy of the Laplacian over that of the gradient; `bone`,
    the share of tissue at `BONE_LEVEL` or above; `sha256` of the decoded pixels; `problem`, why the file cannot be
    read, and `readable`. Of an unreadable file, everything but the last two is missing. What an image tells beside
    others only is what `pair_up` adds.

    Raises:
        InputError: the folder is no ingest output (no manifest, a column missing, no row, no dataset.json).
    """
    import pandas as pd

    facts, manifest = read_facts(folder), _read_manifest(folder)
    progress, rows, thumbnails = Progress("validate"), [], []
    for path in manifest["path"]:
        measured, small = _measure(read_slice(folder / path))
        rows.append(measured)
        thumbnails.append(small)
        progress(len(rows), len(manifest))
    measurements = pd.DataFrame(rows, columns=list(_MEASUREMENTS)).astype(_MEASUREMENTS)
    table = pd.concat([manifest.drop(columns=_MEASUREMENTS, errors="ignore"), measurements], axis=1)
    table["readable"] = table["problem"].isna()
    return pair_up(table, facts["modalities"], thumbnails, _indexed_splits(folder, facts))


def read_facts(folder: Path) -> dict[str, Any]:
    """The `dataset.json` of an ingested folder; raises InputError where there is none or it names no two modalities."""
    path = folder / "dataset.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"no readable dataset.json in {folder} ({error}); validate the output of ingest") from None
    if not isinstance(facts, dict) or len(facts.get("modalities") or ()) != 2:
        raise InputError(f"{path} names no two modalities; run ingest again")
    return facts


def _read_manifest(folder: Path) -> pd.DataFrame:
    import pandas as pd

    path = folder / "manifest.csv"
    try:
        # Text throughout: the subject "02" is not the number 2.
        manifest = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"no readable manifest.csv in {folder} ({error}); validate the output of ingest") from None
    missing = [column for column in _KEYS if column not in manifest]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; run ingest again")
    if manifest.empty:
        raise InputError(f"{path} lists no image; ingest a collection that has some")
    return manifest


def _indexed_splits(folder: Path, facts: dict[str, Any]) -> dict[str, list[str]]:
    """The pair names of each split that the collection's own index.json names; none without such a file.

    The index is of the form that the preprocess step writes: {"splits": {"train": [{"name": "16003"}, ...], ...}}.
    """
    path = folder / str(facts.get("collection", "")) / "index.json"
    if not path.is_file():
        return {}
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
        return {str(split): [str(entry["name"]) for entry in entries] for split, entries in splits.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} names no splits ({error}); mend or remove it") from None


def _measure(image: Slice | str) -> tuple[dict[str, Any], Thumbnail | None]:
    if isinstance(image, str):
        return {"problem": image}, None
    levels = image.levels
    measured = {
        "width": levels.shape[1],
        "height": levels.shape[0],
        "mode": image.mode,
        "bit_depth": image.bit_depth,
        "min": int(levels.min()),
        "max": int(levels.max()),
        **grey_statistics(levels, image.bytes),
        "sha256": image.sha256,
    }
    return measured, thumbnail(image.bytes)


def grey_statistics(
    levels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], upper: npt.NDArray[np.uint8]
) -> dict[str, float]:
    """The statistics that drift is told by, of grey levels (H, W) and, for the sharpness, their upper eight bits.

    They are named and defined as in `measure_images`.
    """
    counts = np.bincount(levels.ravel())
    shares = counts[counts > 0] / levels.size
    tissue = int(counts[TISSUE_LEVEL + 1 :].sum())
    return {
        "mean": float(levels.mean()),
        "background": float(counts[: BACKGROUND_LEVEL + 1].sum() / levels.size),
        "entropy": float(-(shares * np.log2(shares)).sum()) + 0.0,
        "sharpness": _sharpness(upper),
        "bone": float(counts[BONE_LEVEL:].sum() / tissue) if tissue else 0.0,
    }


def _sharpness(levels: npt.NDArray[np.uint8]) -> float:
    """Mean squared Laplacian over mean squared gradient: low after blur, high with noise, whatever the contrast."""
    if min(levels.shape) < 3:
        return 0.0
    f = levels.astype(np.float32)
    middle = f[1:-1, 1:-1]
    down, right = (f[2:, 1:-1] - f[:-2, 1:-1]) / 2, (f[1:-1, 2:] - f[1:-1, :-2]) / 2
    curved = f[2:, 1:-1] + f[:-2, 1:-1] + f[1:-1, 2:] + f[1:-1, :-2] - 4 * middle
    slope = float((down**2 + right**2).mean())
    return float((curved**2).mean()) / slope if slope else 0.0
