"""Drift: how far the images of a dataset are, on average, from those that the champion learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("mean", "background", "entropy", "sharpness", "bone")
# Of the reference's standard deviation over images: half of one is what Cohen calls a medium effect.
LEAST_EFFECT = 0.5
# Standard errors of a difference between means over subjects, whose slices are no independent samples. With both
# limits, halves of the atlas drawn by subject drift in 0 to 7 % of 100 draws, halves of the phantom in 0 to 4 %.
LEAST_ERRORS = 3.5
# How much subjects differ is not known from two.
LEAST_SUBJECTS = 3


@dataclass(frozen=True)
class Bounds:
    """Where the mean of a statistic over the images of a modality is expected: within `margin` of `centre`."""

    modality: str
    statistic: str
    centre: float
    margin: float

    def drifted(self, mean: float) -> bool:
        """Whether a mean is further away than that."""
        return abs(mean - self.centre) > self.margin


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """The statistics of a dataset, small enough to travel with a model.

    For each modality "images", "subjects", and for each of `STATISTICS` its "mean" and "sd" over images and "between",
    the standard deviation of the subjects' means. Unreadable images are left out.
    """
    return {str(modality): _of_modality(group) for modality, group in table[table["readable"]].groupby("modality")}


def bounds(reference: Mapping[str, Any], current: Mapping[str, Any]) -> list[Bounds]:
    """Where each statistic of `current` is expected from what `reference` says, both as of `summarise`.

    The margin is half a standard deviation over the reference's images, or what the drawing of so few subjects
    explains if that is more. A modality that has fewer than `LEAST_SUBJECTS` on either side is left out.
    """
    return [
        _bounds(modality, name, reference[modality], current[modality])
        for modality in current
        if modality in reference and min(side[modality]["subjects"] for side in (reference, current)) >= LEAST_SUBJECTS
        for name in STATISTICS
        if name in reference[modality]
    ]


def _of_modality(group: pd.DataFrame) -> dict[str, Any]:
    told: dict[str, Any] = {"images": len(group), "subjects": int(group["subject"].nunique())}
    for name in STATISTICS:
        values = group[name].astype(float)
        subjects = values.groupby(group["subject"]).mean()
        spread = subjects.std() if len(subjects) > 1 else 0.0
        told[name] = {
            key: _rounded(v) for key, v in (("mean", values.mean()), ("sd", values.std(ddof=0)), ("between", spread))
        }
    return told


def _bounds(modality: str, name: str, reference: Mapping[str, Any], current: Mapping[str, Any]) -> Bounds:
    variance = sum(side[name]["between"] ** 2 / side["subjects"] for side in (reference, current))
    margin = max(LEAST_EFFECT * reference[name]["sd"], LEAST_ERRORS * variance**0.5)
    return Bounds(modality, name, reference[name]["mean"], margin)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
