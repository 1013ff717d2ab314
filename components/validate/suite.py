"""What the pairs are expected to be, judged by Great Expectations; what is critical stops the run before training."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.validate.drift import Bounds, bounds, summarise
from components.validate.expectations import Check, checks
from components.validate.measurements import measure_images, read_facts
from components.validate.pairing import named_split
from components.validate.reference import Reference
from components.validate.report import Finding, ValidationReport
from model.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_FILES_TOLD = 10
_NO_REFERENCE = Reference(missing="no champion was named")


def validate_dataset(
    folder: Path,
    docs_file: Path,
    report_file: Path,
    min_pairs: int = 6,
    reference: Reference = _NO_REFERENCE,
    size: int = 0,
) -> ValidationReport:
    """Judge an ingested folder; write the Data Docs (one HTML file that loads nothing) and the report (JSON).

    Both files are written whether or not the dataset passes; `ValidationReport.require_passed` makes an error of a
    failure. The same folder gives the same bytes.

    Args:
        folder: the output of ingest: the images, `manifest.csv` and `dataset.json`.
        docs_file: where the page goes.
        report_file: where the report goes.
        min_pairs: the fewest complete pairs worth training on.
        reference: the champion's training data, to tell drift.
        size: the side in pixels that images will be brought to, so that they may differ; 0 where they must not.

    Raises:
        InputError: the folder is no ingest output, or `min_pairs` is below 1.
    """
    if min_pairs < 1:
        raise InputError(f"min_pairs is {min_pairs}; ask for at least 1 pair")
    facts = read_facts(folder)
    table = measure_images(folder)
    statistics = summarise(table)
    drift = bounds(reference.statistics, statistics) if reference.statistics else []

    # Great Expectations takes 6 seconds to import, so bad input is told before.
    from components.validate.docs import render_page

    applied = checks(table, min_pairs, size, drift, reference.champion)
    with tempfile.TemporaryDirectory() as site:
        results = _run(table, applied, Path(site))
        report = _report(table, applied, results, _skipped(table, drift, reference))
        page = render_page(Path(site), report, facts)
    travelling = {"collection": facts.get("collection"), "version": facts.get("version"), "modalities": statistics}
    content = {"dataset": facts, "min_pairs": min_pairs} | asdict(report) | {"statistics": travelling}
    _write(docs_file, page)
    _write(report_file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return report


def _run(table: pd.DataFrame, applied: list[Check], site: Path) -> dict[str, Any]:
    """The result of every expectation, by its description; the site goes into the folder."""
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    from components.validate.docs import site_config

    # All of it said here, so that no setting of the machine can turn on usage statistics or progress bars.
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        data_docs_sites={"pairs": site_config(site)},
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(project_config=config, mode="ephemeral")
    suite = context.suites.add(gx.ExpectationSuite(name="pairs"))
    for check in applied:
        suite.add_expectation(check.expectation)
    images = context.data_sources.add_pandas("ingest").add_dataframe_asset("images")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="pairs", data=images.add_batch_definition_whole_dataframe("all"), suite=suite)
    )
    checkpoint = gx.Checkpoint(
        name="pairs",
        validation_definitions=[definition],
        actions=[UpdateDataDocsAction(name="data docs")],
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["path"],
            "return_unexpected_index_query": False,
        },
    )
    outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table})
    results = next(iter(outcome.run_results.values())).results
    return {result.expectation_config.description: result for result in results}


def _skipped(table: pd.DataFrame, drift: list[Bounds], reference: Reference) -> tuple[str, ...]:
    skipped = []
    if not named_split(table):
        skipped.append("Subjects in two splits: the data names no split; the preprocess step makes one by subject.")
    if not drift:
        missing = reference.missing or f"{reference.champion} or this data has too few subjects"
        skipped.append(f"Drift from the champion's training data: {missing}.")
    return tuple(skipped)


def _report(
    table: pd.DataFrame, applied: list[Check], results: dict[str, Any], skipped: tuple[str, ...]
) -> ValidationReport:
    found: dict[str, list[Finding]] = {"critical": [], "warning": []}
    for check in applied:
        result = results[check.expectation.description]
        if not result.success:
            found[check.expectation.severity].append(_finding(check, result, table))
    return ValidationReport(
        passed=not found["critical"],
        images=len(table),
        pairs=int(table["pair"].nunique()),
        subjects=int(table["subject"].nunique()),
        expectations=len(applied),
        critical_failures=tuple(found["critical"]),
        warnings=tuple(found["warning"]),
        skipped=skipped,
    )


def _finding(check: Check, result: Any, table: pd.DataFrame) -> Finding:
    content = result.to_json_dict()["result"]
    if not content:
        raise RuntimeError(f"{check.sentence}: Great Expectations could not tell: {result.exception_info}")
    if "observed_value" in content:
        complaint = check.complaint.format(found=content["observed_value"])
        offenders = _furthest(table, check.bounds) if check.bounds else []
    else:
        offenders = [dict(offender) for offender in content["unexpected_index_list"]]
        images = "1 image" if len(offenders) == 1 else f"{len(offenders)} images"
        complaint = f"{images} {check.complaint} ({offenders[0]['path']}{', ...' if len(offenders) > 1 else ''})"
    first = offenders[:_FILES_TOLD]
    files = tuple(offender.pop("path") for offender in first)
    details = tuple(", ".join(map(_told, offender.items())) for offender in first)
    return Finding(check.sentence, complaint, len(offenders), files, details)


def _furthest(table: pd.DataFrame, bounds: Bounds) -> list[dict[str, Any]]:
    """The images of the modality that lie outside the bounds, the furthest first."""
    of_modality = table.loc[table["modality"] == bounds.modality, ["path", bounds.statistic]].dropna()
    away = (of_modality[bounds.statistic].astype(float) - bounds.centre).abs()
    order = away[away > bounds.margin].sort_values(ascending=False, kind="stable").index
    return list(of_modality.loc[order].to_dict("records"))


def _told(measured: tuple[str, Any]) -> str:
    column, value = measured
    return f"{column}: {value:.3g}" if isinstance(value, float) else f"{column}: {value}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
