"""What the pairs are expected to be, judged by Great Expectations; what is critical stops the run before training."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.ingest.layout import IN_COLOUR
from components.validate.measurements import BACKGROUND_LEVEL, measure_images, read_facts
from components.validate.report import Finding, ValidationReport
from model.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

MIN_SIDE = 16
# A split by subject needs one to train on, one for validation and one for the test.
MIN_SUBJECTS = 3
_FILES_TOLD = 10
_GREY_MODES = ["1", "L", "I", "I;16", "I;16B", "F"]


@dataclass(frozen=True)
class _Check:
    sentence: str
    # Goes behind "3 images"; where no single image is at fault, a sentence of its own around {found}.
    complaint: str
    expectation: Expectation


def validate_dataset(
    folder: Path, docs_file: Path, report_file: Path, min_pairs: int = 6, size: int = 0
) -> ValidationReport:
    """Judge an ingested folder; write the Data Docs (one HTML file that loads nothing) and the report (JSON).

    Both files are written whether or not the dataset passes; `ValidationReport.require_passed` makes an error of a
    failure. The same folder gives the same bytes.

    Args:
        folder: the output of ingest: the images, `manifest.csv` and `dataset.json`.
        docs_file: where the page goes.
        report_file: where the report goes.
        min_pairs: the fewest complete pairs worth training on.
        size: the side in pixels that images will be brought to, so that they may differ; 0 where they must not.

    Raises:
        InputError: the folder is no ingest output, or `min_pairs` is below 1.
    """
    if min_pairs < 1:
        raise InputError(f"min_pairs is {min_pairs}; ask for at least 1 pair")
    facts = read_facts(folder)
    table = measure_images(folder)

    # Great Expectations takes 6 seconds to import, so bad input is told before.
    from components.validate.docs import render_page

    checks = _checks(table, min_pairs, size)
    with tempfile.TemporaryDirectory() as site:
        results = _run(table, checks, Path(site))
        report = _report(table, checks, results)
        page = render_page(Path(site), report, facts)
    content = {"dataset": facts, "min_pairs": min_pairs} | asdict(report)
    _write(docs_file, page)
    _write(report_file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return report


def _checks(table: pd.DataFrame, min_pairs: int, wanted: int) -> list[_Check]:
    import great_expectations.expectations as gx

    def check(severity: str, sentence: str, complaint: str, kind: type[Expectation], **arguments: Any) -> _Check:
        # GX keeps the severity but does not show it in the Data Docs, so the description says it too.
        description = f"{sentence} ({severity})"
        return _Check(sentence, complaint, kind(description=description, severity=severity, **arguments))

    critical, warning = partial(check, "critical"), partial(check, "warning")
    each, one_of, distinct = (
        gx.ExpectColumnValuesToBeBetween,
        gx.ExpectColumnValuesToBeInSet,
        gx.ExpectColumnUniqueValueCountToBeBetween,
    )
    size = next(iter(table["size"].mode()), "none")
    colour = table["modality"].isin(IN_COLOUR)
    return [
        critical("Every file is a readable PNG image.", "unreadable", gx.ExpectColumnValuesToBeNull, column="problem"),
        critical(
            "Every image has a partner of the same name in the other modality.",
            "without partner",
            one_of,
            column="partner",
            value_set=[True],
        ),
        critical(
            f"Every image is grey{', but those of PET and SPECT' if colour.any() else ''}.",
            "not grey",
            one_of,
            column="grey_mode",
            value_set=_GREY_MODES,
        ),
        critical("Every image has 8 bits a sample.", "not 8-bit", one_of, column="bit_depth", value_set=[8]),
        critical(
            "The two images of a pair have the same size.",
            "of another size than the partner",
            gx.ExpectColumnValuesToBeNull,
            column="size_mismatch",
        ),
        (warning if wanted else critical)(
            f"All images have one size (here {size}).", f"not of size {size}", one_of, column="size", value_set=[size]
        ),
        critical(
            f"Every image is at least {MIN_SIDE} pixels wide.",
            f"under {MIN_SIDE} pixels wide",
            each,
            column="width",
            min_value=MIN_SIDE,
        ),
        critical(
            f"Every image is at least {MIN_SIDE} pixels high.",
            f"under {MIN_SIDE} pixels high",
            each,
            column="height",
            min_value=MIN_SIDE,
        ),
        critical(
            "No image is of one grey level throughout.",
            "of one grey level",
            gx.ExpectColumnPairValuesAToBeGreaterThanB,
            column_A="max",
            column_B="min",
            ignore_row_if="either_value_is_missing",
        ),
        critical(
            "No two images are the same, pixel by pixel, in one modality or across both.",
            "with the same content as another",
            gx.ExpectColumnValuesToBeUnique,
            column="sha256",
        ),
        critical(
            f"There are at least {MIN_SUBJECTS} subjects, so that a split by subject is possible.",
            f"only {{found}} of the {MIN_SUBJECTS} subjects needed",
            distinct,
            column="subject",
            min_value=MIN_SUBJECTS,
        ),
        critical(
            f"There are at least {min_pairs} complete pairs.",
            f"only {{found}} of the {min_pairs} pairs needed",
            distinct,
            column="pair",
            min_value=min_pairs,
        ),
        warning(
            "The mean grey level of every image is between 2 and 160.",
            "of implausible mean",
            each,
            column="mean",
            min_value=2,
            max_value=160,
        ),
        warning(
            f"Background (grey level up to {BACKGROUND_LEVEL}) covers between 5 % and 95 % of every image.",
            "of implausible background",
            each,
            column="background",
            min_value=0.05,
            max_value=0.95,
        ),
        warning(
            "The entropy of every image is at least 1 bit.", "of little content", each, column="entropy", min_value=1
        ),
        warning(
            "Every subject has at least 2 pairs.",
            "of a subject with few pairs",
            each,
            column="subject_pairs",
            min_value=2,
        ),
    ]


def _run(table: pd.DataFrame, checks: list[_Check], site: Path) -> dict[str, Any]:
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
    for check in checks:
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


def _report(table: pd.DataFrame, checks: list[_Check], results: dict[str, Any]) -> ValidationReport:
    found: dict[str, list[Finding]] = {"critical": [], "warning": []}
    for check in checks:
        result = results[check.expectation.description]
        if not result.success:
            found[check.expectation.severity].append(_finding(check, result))
    return ValidationReport(
        passed=not found["critical"],
        images=len(table),
        pairs=int(table["pair"].nunique()),
        subjects=int(table["subject"].nunique()),
        expectations=len(checks),
        critical_failures=tuple(found["critical"]),
        warnings=tuple(found["warning"]),
    )


def _finding(check: _Check, result: Any) -> Finding:
    content = result.to_json_dict()["result"]
    if not content:
        raise RuntimeError(f"{check.sentence}: Great Expectations could not tell: {result.exception_info}")
    if "observed_value" in content:
        return Finding(check.sentence, check.complaint.format(found=content["observed_value"]), 0, (), ())
    offenders = content["unexpected_index_list"]
    first = [dict(offender) for offender in offenders[:_FILES_TOLD]]
    files = tuple(offender.pop("path") for offender in first)
    details = tuple(", ".join(map(_told, offender.items())) for offender in first)
    count = len(offenders)
    images = f"{count} image" if count == 1 else f"{count} images"
    complaint = f"{images} {check.complaint} ({files[0]}{', ...' if count > 1 else ''})"
    return Finding(check.sentence, complaint, count, files, details)


def _told(measured: tuple[str, Any]) -> str:
    column, value = measured
    return f"{column}: {value:.3g}" if isinstance(value, float) else f"{column}: {value}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
