"""What the validation judges: one row of plain measurements for every image that the manifest lists."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.ingest.layout import IN_COLOUR
from model.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# The darkest 2 % of the 8-bit range: the air around a head, with the noise a scanner or an old JPEG left in it.
BACKGROUND_LEVEL = 5
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
    "sha256": "object",
    "problem": "object",
}


def measure_images(folder: Path) -> pd.DataFrame:
    """Open every image of an ingested folder once and measure it.

    The table keeps the manifest's columns and order and adds, per image: `width` and `height` in pixels; `mode`,
    Pillow's name of the pixel format ("L" is 8-bit grey); `bit_depth`, bits a sample; `min`, `max` and `mean` in grey
    levels; `background`, the share of pixels at or below `BACKGROUND_LEVEL`; `entropy` of the grey levels in bits;
    `sha256` of the decoded pixels, so that a re-encoded copy counts as a copy; `problem`, why the file cannot be read,
    and `readable`. Of an unreadable file, everything but the last two is missing.

    `grey_mode` is the mode again, but missing for the modalities that are in colour.

    And what one image tells only beside others: `partner`, whether the other modality has an image of the same name;
    `pair`, that name where it has; `size`, such as "256x256"; `size_mismatch`, "128x128 against 256x256" where the
    partner is of another size; `subject_pairs`, how many pairs the subject has.

    Raises:
        InputError: the folder is no ingest output (no manifest, a column missing, no row, no dataset.json).
    """
    import pandas as pd

    modalities = read_facts(folder)["modalities"]
    manifest = _read_manifest(folder)
    measured = pd.DataFrame([_measure(folder / path) for path in manifest["path"]], columns=list(_MEASUREMENTS))
    table = pd.concat([manifest, measured.astype(_MEASUREMENTS)], axis=1)
    table["readable"] = table["problem"].isna()
    # Missing values are passed over by the expectation that an image is grey.
    table["grey_mode"] = table["mode"].mask(table["modality"].isin(IN_COLOUR))
    return _pair_up(table, modalities)


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


def _measure(path: Path) -> dict[str, Any]:
    import numpy as np
    from PIL import Image, ImageMode, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"]) as image:
            image.load()
            mode, (width, height), levels = image.mode, image.size, np.asarray(image)
    except FileNotFoundError:
        return {"problem": "no such file"}
    except UnidentifiedImageError:
        return {"problem": "not a PNG image"}
    except Exception as error:  # damaged bytes make decoders raise OSError, SyntaxError, zlib.error and more
        return {"problem": " ".join(f"{type(error).__name__}: {error}".split())}
    depth = 1 if mode == "1" else 8 * np.dtype(ImageMode.getmode(mode).typestr).itemsize
    shares = np.unique(levels, return_counts=True)[1] / levels.size
    return {
        "width": width,
        "height": height,
        "mode": mode,
        "bit_depth": depth,
        "min": int(levels.min()),
        "max": int(levels.max()),
        "mean": float(levels.mean()),
        "background": float((levels <= BACKGROUND_LEVEL).mean()),
        "entropy": float(-(shares * np.log2(shares)).sum()) + 0.0,
        "sha256": hashlib.sha256(f"{mode} {levels.shape}".encode() + levels.tobytes()).hexdigest(),
    }


def _pair_up(table: pd.DataFrame, modalities: list[str]) -> pd.DataFrame:
    import pandas as pd

    first, second = modalities
    known = table["modality"].isin(modalities)
    other = table["modality"].where(known).map({first: second, second: first})
    names = set(zip(table["modality"], table["name"], strict=True))
    table["partner"] = [key in names for key in zip(other, table["name"], strict=True)]
    table["pair"] = table["name"].where(table["partner"])
    table["size"] = (table["width"].astype("string") + "x" + table["height"].astype("string")).astype("object")
    sizes = dict(zip(zip(table["modality"], table["name"], strict=True), table["size"], strict=True))
    partner_size = pd.Series([sizes.get(key) for key in zip(other, table["name"], strict=True)], table.index)
    mismatch = table["size"].notna() & partner_size.notna() & (table["size"] != partner_size)
    table["size_mismatch"] = (table["size"] + " against " + partner_size).where(mismatch)
    table["subject_pairs"] = table.groupby("subject")["pair"].transform("nunique")
    return table
