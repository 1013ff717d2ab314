"""Fuse every pair of a folder or an S3 prefix on this machine: the batch pipeline's steps, one after the other."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from components.batch.fusing import ON_ERROR
from components.batch.pairs import UnfitPair
from components.batch.steps import check_step, fuse_step, report_step
from components.code import code_version, git_commit
from components.ingest.phantom import PhantomConfig
from model.errors import InputError, unknown_choice
from model.strategies import STRATEGIES
from pipelines.fuse import check_model_name
from pipelines.local import registry_uri

# As in the pipeline.
_PHANTOM = PhantomConfig(subjects=3, slices=4)


def fuse_batch(
    source: str,
    destination: str,
    collection: str,
    model: str | None,
    strategy: str | None,
    measures: str,
    on_error: str,
    device: str,
    runs: Path,
    progress: Callable[..., object],
) -> dict[str, Any]:
    """Fuse and measure the pairs, write the summary, and return its manifest; `progress` hears of the pairs done.

    Without `model` it is the shipped one, without `strategy` the model's own. A registered model comes from
    MLFLOW_TRACKING_URI, or else the local store below `runs`. Raises InputError for whatever the user can mend.
    """
    if not destination:
        raise InputError("no destination; give a folder or s3://bucket/prefix for the results")
    check_model_name(model)
    for what, given, known in (("fusion strategy", strategy, STRATEGIES), ("--on-error", on_error, ON_ERROR)):
        if given is not None and given not in known:
            raise unknown_choice(what, given, known)
    uri = registry_uri(runs) if model and model.startswith("models:") else ""
    with tempfile.TemporaryDirectory() as scratch:
        plan, chosen, fused, summary = (Path(scratch) / name for name in ("plan", "chosen", "fused", "summary"))
        asked = source, destination, collection, model or "", strategy or "", measures, on_error
        try:
            check_step(*asked, _PHANTOM, plan, chosen, uri, progress)
            fuse_step(plan, chosen, destination, fused, device, progress)
        except UnfitPair as error:
            raise UnfitPair(error.fault, skip="--on-error skip") from None
        return report_step(plan, chosen, fused, destination, summary, git_commit(), code_version())


def _drift_words(drift: dict[str, Any]) -> str:
    count = f"{drift['drifted']} of the images' statistics" if drift["drifted"] else "none of the images' statistics"
    return drift["missing"] or f"{count} drifted from those of {drift['compared_with']}"


def print_batch(manifest: dict[str, Any], destination: str) -> None:
    """What was done, by which model, how far the images drifted, and where everything is."""
    console, pairs, drift = Console(highlight=False), manifest["pairs"], manifest["drift"]
    model = manifest["model"]
    version = f" version {model['version']}" if model["version"] else ""
    before = f", {pairs['kept']} of them by an earlier run" if pairs["kept"] else ""
    lines = [
        ("fused", f"{pairs['fused']} {manifest['collection']} pairs{before}"),
        ("model", f"{model['name']}{version}, weights {model['weights_sha256'][:12]}"),
        ("drift", _drift_words(drift)),
    ]
    lines += [("skipped", f"{fault['pair']}: {fault['problem']}") for fault in manifest["skipped"][:5]]
    if (more := pairs["skipped"] - 5) > 0:
        lines.append(("", f"and {more} more; {manifest['collection']}/manifest.json lists them"))
    lines.append(("results", f"{destination.rstrip('/')}/{manifest['collection']}"))
    for name, text in lines:
        console.print(f"{name:<8} {text}", soft_wrap=True, markup=False)
