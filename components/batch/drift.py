"""How far the images of a batch are from those that its model learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from components.batch.chosen import Chosen
from components.batch.journal import Row
from components.validate.drift import LEAST_SUBJECTS, STATISTICS, bounds, summarise


def find_drift(rows: Sequence[Row], modalities: Sequence[str], chosen: Chosen) -> dict[str, Any]:
    """The batch's statistics beside those of the model's own images, as plain JSON values.

    `findings` has for each modality and statistic the mean here, where it is expected (`centre`, `margin`) and whether
    it `drifted`; it is empty where nothing can be compared, and `missing` then says why.
    """
    import pandas as pd

    table = pd.DataFrame(
        {"readable": True, "modality": modality, "subject": row["subject"]} | statistics
        for row in rows
        for modality, statistics in zip(modalities, row["statistics"], strict=True)
    )
    here = summarise(table)
    expected = bounds(chosen.statistics, here) if chosen.statistics else []
    missing = chosen.missing
    if not missing and not expected:
        missing = f"fewer than {LEAST_SUBJECTS} subjects, here or where the model learned, cannot be compared"
    findings = []
    for each in expected:
        mean = here[each.modality][each.statistic]["mean"]
        findings.append(asdict(each) | {"mean": mean, "drifted": each.drifted(mean)})
    return {
        "compared_with": chosen.title if findings else None,
        "missing": missing,
        "drifted": sum(finding["drifted"] for finding in findings),
        "findings": findings,
        "here": {modality: {name: here[modality][name] for name in STATISTICS} for modality in here},
        "subjects": len({row["subject"] for row in rows}),
    }
