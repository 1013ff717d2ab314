"""What an image tells beside others: its partner and their alignment, its subject's splits, copies elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.ingest.layout import IN_COLOUR
from components.validate.alignment import Thumbnail, align
from components.validate.duplicates import describe, nearest_copies

if TYPE_CHECKING:
    import pandas as pd

# Tracer uptake is published in colour; anatomy is grey.
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "F")
COLOUR_MODES = (*GREY_MODES, "RGB")
# Share of the tissue as bright as bone. In the CT of the atlas at least 0.169 (phantom 0.172), in its MR at most 0.091
# (0.036): the limit is their geometric mean.
BONE_SHARE = 0.125
# Correlation of two images without their slow and fast frequencies. Across subjects at most 0.773 in the atlas and
# 0.919 among 64 phantoms; a copy of CT or MR with noise of 12 grey levels, a quarter brighter or a pixel aside keeps
# 0.952.
COPY_CORRELATION = 0.94


def pair_up(
    table: pd.DataFrame,
    modalities: Sequence[str],
    thumbnails: Sequence[Thumbnail | None],
    splits: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """The table of measured images with what they tell beside others.

    Adds `partner`, whether the other modality has an image of the same name; `pair`, that name where it has;
    `size`, such as "256x256"; `size_mismatch`, "128x128 against 256x256" where the partner is of another size;
    `subject_pairs`, how many pairs the subject has; `overlap`, `nmi` and `gain` of `align`, missing where an image
    is; `colour`, the mode where it should be grey and is not; `swapped`, where it looks as if a CT and its partner
    stood in each other's place; `doubtful`, why an image hardly is of its modality; `copy_of`, the image of another
    subject that it nearly equals; `splits`, where the subject is in several of them. The last five and
    `size_mismatch` are missing where nothing is wrong.

    `thumbnails` has one for each row, None where the image is unreadable; `splits` may name the pairs of each split,
    as may a column `split` of the table.
    """
    import pandas as pd

    first, second = modalities
    other = table["modality"].map({first: second, second: first})
    rows = {key: row for row, key in enumerate(zip(table["modality"], table["name"], strict=True))}
    partners = [rows.get(key) for key in zip(other, table["name"], strict=True)]
    table["partner"] = [partner is not None for partner in partners]
    table["pair"] = table["name"].where(table["partner"])
    table["size"] = (table["width"].astype("string") + "x" + table["height"].astype("string")).astype("object")
    across = {
        column: pd.Series([None if row is None else table.at[row, column] for row in partners], table.index)
        for column in ("size", "bone")
    }
    mismatch = table["size"].notna() & across["size"].notna() & (table["size"] != across["size"])
    table["size_mismatch"] = (table["size"] + " against " + across["size"]).where(mismatch)
    table["subject_pairs"] = table.groupby("subject")["pair"].transform("nunique")
    _add_alignment(table, partners, thumbnails)
    _add_modality(table, modalities, across["bone"])
    _add_copies(table, thumbnails)
    _add_splits(table, splits)
    return table


def named_split(table: pd.DataFrame) -> bool:
    """Whether the data itself says which split an image is in."""
    return bool((table["split"] != "").any())


def _add_alignment(table: pd.DataFrame, partners: Sequence[int | None], thumbnails: Sequence[Thumbnail | None]) -> None:
    import pandas as pd

    found: dict[int, tuple[float, float, float]] = {}
    for row, partner in enumerate(partners):
        if partner is None or row > partner:
            continue
        a, b = thumbnails[row], thumbnails[partner]
        if a is not None and b is not None:
            lie = align(a, b)
            found[row] = found[partner] = (lie.overlap, lie.nmi, lie.gain)
    columns = ("overlap", "nmi", "gain")
    table[list(columns)] = (
        pd.DataFrame.from_dict(found, "index", columns=columns).reindex(table.index).astype("Float64")
    )


def _add_modality(table: pd.DataFrame, modalities: Sequence[str], partner_bone: pd.Series) -> None:
    import pandas as pd

    coloured = table["modality"].isin(IN_COLOUR)
    allowed = table["mode"].isin(GREY_MODES) | (coloured & table["mode"].isin(COLOUR_MODES))
    table["colour"] = table["mode"].where(~allowed & table["readable"])
    bone, beside = (values.astype("Float64").astype(float) for values in (table["bone"], partner_bone))
    ct, against_ct = table["modality"] == "CT", (table["modality"] != "CT") & ("CT" in modalities)
    told = bone.map("{:.2f}".format) + " of the tissue is as bright as bone"
    less = (ct & (bone < beside) & (beside > BONE_SHARE)) | (against_ct & (bone > beside) & (bone > BONE_SHARE))
    table["swapped"] = (told + ", of the partner's " + beside.map("{:.2f}".format)).where(less)
    usual = table.groupby("modality")["mode"].transform(lambda modes: next(iter(modes.mode()), None))
    unusual = coloured & table["readable"] & (table["mode"] != usual)
    strange = (ct & (bone < BONE_SHARE)) | (against_ct & (bone > BONE_SHARE))
    doubts = pd.Series(None, table.index, dtype="object")
    doubts[strange] = told[strange]
    doubts[unusual] = ("mode " + table["mode"].astype(str) + " among " + usual.astype(str))[unusual]
    table["doubtful"] = doubts


def _add_copies(table: pd.DataFrame, thumbnails: Sequence[Thumbnail | None]) -> None:
    present = [row for row, small in enumerate(thumbnails) if small is not None]
    table["copy_of"] = None
    if present:
        descriptors = np.stack([describe(thumbnails[row]) for row in present])  # type: ignore[arg-type]  # not None
        subjects = table["subject"].iloc[present].factorize()[0]
        for image, (copy, value) in nearest_copies(descriptors, subjects, COPY_CORRELATION).items():
            table.at[present[image], "copy_of"] = f"{table.at[present[copy], 'path']} (correlation {value:.3f})"


def _add_splits(table: pd.DataFrame, splits: Mapping[str, Sequence[str]]) -> None:
    if "split" not in table:
        of_name = {name: split for split, names in splits.items() for name in names}
        table["split"] = table["name"].map(of_name).fillna("")
    named = table[table["split"] != ""].groupby("subject")["split"].unique()
    several = {subject: ", ".join(sorted(found)) for subject, found in named.items() if len(found) > 1}
    table["splits"] = table["subject"].map(several)
