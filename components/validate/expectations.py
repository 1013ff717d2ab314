"""What is expected of the pairs and how grave it is where it does not hold; every limit with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from components.ingest.layout import IN_COLOUR
from components.validate.drift import LEAST_EFFECT, Bounds
from components.validate.measurements import BACKGROUND_LEVEL
from components.validate.pairing import COPY_CORRELATION, named_split

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

# The network's coarsest scale needs this many pixels.
MIN_SIDE = 16
# A split by subject needs one to train on, one for validation and one for the test.
MIN_SUBJECTS = 3
# A single pair shows nothing of how the slices of a head differ. The atlas has 16 or more a subject.
MIN_SUBJECT_PAIRS = 2
# In the three collections of the atlas images have a mean of 2.1 to 88 and background of 23 to 94.5 %. Nine slices at
# the end of a head, three of them CT, have under 1 bit and show next to nothing.
MEANS = (2, 160)
BACKGROUNDS = (0.05, 0.95)
MIN_ENTROPY = 1
# 1.3 to 5.4 in the atlas, 1.3 to 7.04 in phantoms of 64 to 256 pixels; at most 0.31 after a blur of 2 pixels and at
# least 7.6 with noise of 25 grey levels.
SHARPNESS = (0.6, 7.2)
# Heads of the atlas overlap by 0.80 or more, those of two subjects by 0.77: less is no head beside a head.
MIN_OVERLAP = 0.6
# The least of the atlas is 1.036; of images that have nothing in common, 1.00.
MIN_NMI = 1.02
# How much more a partner would tell elsewhere. CT-MRI: at most 1.047 in the atlas and 0.962 in the phantom; above 1.06
# in 97 to 99 % of the atlas's pairs moved by 12 pixels, in 95 to 96 % of those turned by 20 degrees.
MAX_GAIN = 1.06
# A few misplaced pairs are a warning: 5 % of SPECT-MRI have uptake that is cut off. A fifth is a series that was never
# registered.
MOSTLY_PLACED = 0.8


@dataclass(frozen=True)
class Check:
    """An expectation with its severity, the sentence that says it, and the complaint where it does not hold.

    The complaint goes behind "3 images"; where no single image is at fault, it is a sentence around {found}. `bounds`
    are those of a check on drift.
    """

    sentence: str
    complaint: str
    expectation: Expectation
    bounds: Bounds | None = None


def checks(table: pd.DataFrame, min_pairs: int, wanted: int, drift: Sequence[Bounds], champion: str) -> list[Check]:
    """Every check that applies to a table of `measure_images`; those on drift compare with the champion's data.

    Where images will be brought to the side `wanted`, those of another size are only worth a warning.
    """
    return [
        *_files(table, wanted),
        *_pairs(),
        *_content(),
        *_dataset(table, min_pairs),
        *(_drifted(each, champion) for each in drift),
    ]


def _check(severity: str, sentence: str, complaint: str, kind: str, **arguments: Any) -> Check:
    import great_expectations.expectations as gx

    # GX keeps the severity but does not show it in the Data Docs, so the description says it too.
    described = {"description": f"{sentence} ({severity})", "severity": severity}
    return Check(sentence, complaint, getattr(gx, kind)(**described, **arguments))


_critical, _warning = partial(_check, "critical"), partial(_check, "warning")
_BETWEEN, _NULL, _SET = "ExpectColumnValuesToBeBetween", "ExpectColumnValuesToBeNull", "ExpectColumnValuesToBeInSet"
_DISTINCT = "ExpectColumnUniqueValueCountToBeBetween"


def _files(table: pd.DataFrame, wanted: int) -> list[Check]:
    size = next(iter(table["size"].mode()), "none")
    grey = f"Every image is grey ({' and '.join(sorted(IN_COLOUR))} may be in colour)."
    return [
        _critical("Every file is a readable PNG image.", "unreadable", _NULL, column="problem"),
        _critical(grey, "not grey", _NULL, column="colour"),
        _critical("Every image has 8 bits a sample.", "not 8-bit", _SET, column="bit_depth", value_set=[8]),
        (_warning if wanted else _critical)(
            f"All images have one size (here {size}).", f"not of size {size}", _SET, column="size", value_set=[size]
        ),
        _critical(
            f"Every image is at least {MIN_SIDE} pixels wide.",
            f"under {MIN_SIDE} pixels wide",
            _BETWEEN,
            column="width",
            min_value=MIN_SIDE,
        ),
        _critical(
            f"Every image is at least {MIN_SIDE} pixels high.",
            f"under {MIN_SIDE} pixels high",
            _BETWEEN,
            column="height",
            min_value=MIN_SIDE,
        ),
    ]


def _pairs() -> list[Check]:
    placed = f"moving one image of a pair by a 21st of its width, or turning it, gains at most {MAX_GAIN - 1:.0%}"
    return [
        _critical(
            "Every image has a partner of the same name in the other modality.",
            "without partner",
            _SET,
            column="partner",
            value_set=[True],
        ),
        _critical(
            "The two images of a pair have the same size.",
            "of another size than the partner",
            _NULL,
            column="size_mismatch",
        ),
        _critical(
            "A CT shows more bone than its partner (less, beside a partner with as much as a CT, is a swap).",
            "with CT and partner swapped",
            _NULL,
            column="swapped",
        ),
        _critical(
            f"The heads of a pair overlap by {MIN_OVERLAP:.0%} of the smaller or more.",
            "beside the partner's head",
            _BETWEEN,
            column="overlap",
            min_value=MIN_OVERLAP,
        ),
        _critical(
            f"In {MOSTLY_PLACED:.0%} of the images or more, {placed} of their mutual information.",
            "misplaced against the partner, too many for chance",
            _BETWEEN,
            column="gain",
            max_value=MAX_GAIN,
            mostly=MOSTLY_PLACED,
        ),
        _warning(
            f"In every pair, {placed} of their mutual information.",
            "that would match the partner better elsewhere",
            _BETWEEN,
            column="gain",
            max_value=MAX_GAIN,
        ),
        _warning(
            f"The normalised mutual information of a pair is at least {MIN_NMI}.",
            "that tell nothing of the partner",
            _BETWEEN,
            column="nmi",
            min_value=MIN_NMI,
        ),
    ]


def _content() -> list[Check]:
    return [
        _critical(
            "No image is of one grey level throughout.",
            "of one grey level",
            "ExpectColumnPairValuesAToBeGreaterThanB",
            column_A="max",
            column_B="min",
            ignore_row_if="either_value_is_missing",
        ),
        _critical(
            "No two images are the same, pixel by pixel, in one modality or across both.",
            "with the same content as another",
            "ExpectColumnValuesToBeUnique",
            column="sha256",
        ),
        _critical(
            f"No image nearly equals one of another subject (correlation of details below {COPY_CORRELATION}).",
            "nearly equal to one of another subject",
            _NULL,
            column="copy_of",
        ),
        _warning("Every image looks like its modality.", "unlike their modality", _NULL, column="doubtful"),
        _warning(
            f"The mean grey level of every image is between {MEANS[0]} and {MEANS[1]}.",
            "of implausible mean",
            _BETWEEN,
            column="mean",
            min_value=MEANS[0],
            max_value=MEANS[1],
        ),
        _warning(
            f"Background (grey level up to {BACKGROUND_LEVEL}) covers between {BACKGROUNDS[0]:.0%} and"
            f" {BACKGROUNDS[1]:.0%} of every image.",
            "of implausible background",
            _BETWEEN,
            column="background",
            min_value=BACKGROUNDS[0],
            max_value=BACKGROUNDS[1],
        ),
        _warning(
            f"The entropy of every image is at least {MIN_ENTROPY} bit.",
            "of little content",
            _BETWEEN,
            column="entropy",
            min_value=MIN_ENTROPY,
        ),
        _warning(
            f"The sharpness of every image is between {SHARPNESS[0]} and {SHARPNESS[1]}.",
            "blurred or full of noise",
            _BETWEEN,
            column="sharpness",
            min_value=SHARPNESS[0],
            max_value=SHARPNESS[1],
        ),
    ]


def _dataset(table: pd.DataFrame, min_pairs: int) -> list[Check]:
    split = _critical("No subject is in two splits.", "of a subject in two splits", _NULL, column="splits")
    return [
        *([split] if named_split(table) else []),
        _critical(
            f"There are at least {MIN_SUBJECTS} subjects, so that a split by subject is possible.",
            f"only {{found}} of the {MIN_SUBJECTS} subjects needed",
            _DISTINCT,
            column="subject",
            min_value=MIN_SUBJECTS,
        ),
        _critical(
            f"There are at least {min_pairs} complete pairs.",
            f"only {{found}} of the {min_pairs} pairs needed",
            _DISTINCT,
            column="pair",
            min_value=min_pairs,
        ),
        _warning(
            f"Every subject has at least {MIN_SUBJECT_PAIRS} pairs.",
            "of a subject with few pairs",
            _BETWEEN,
            column="subject_pairs",
            min_value=MIN_SUBJECT_PAIRS,
        ),
    ]


def _drifted(bounds: Bounds, champion: str) -> Check:
    low, high = bounds.centre - bounds.margin, bounds.centre + bounds.margin
    made = _warning(
        f"The {bounds.statistic} of {bounds.modality} images, {bounds.centre:.3g} on average where {champion} learned,"
        f" has moved by no more than {LEAST_EFFECT} standard deviations or than chance explains.",
        f"the {bounds.statistic} of {bounds.modality} images drifted to {{found:.3g}} on average,"
        f" from {bounds.centre:.3g} where {champion} learned",
        "ExpectColumnMeanToBeBetween",
        column=bounds.statistic,
        min_value=low,
        max_value=high,
        row_condition=f'modality == "{bounds.modality}"',
        condition_parser="pandas",
    )
    return Check(made.sentence, made.complaint, made.expectation, bounds)
