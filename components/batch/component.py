"""The steps of a batch as pipeline components: check, fuse, report."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check(
    source: str,
    destination: str,
    collection: str,
    model: str,
    strategy: str,
    measures: str,
    on_error: str,
    phantom_subjects: int,
    phantom_slices: int,
    seed: int,
    code_version: str,
    plan: dsl.Output[dsl.Dataset],
    chosen: dsl.Output[dsl.Model],
) -> None:
    """Find the pairs of the source and the model, and refuse what cannot be done before anything is fused.

    Args:
        source: s3://bucket/prefix or a folder that holds the pairs, or "phantom" for the built-in generator.
        destination: s3://bucket/prefix or a folder for the results; empty keeps them as this run's artifacts.
        collection: CT-MRI, PET-MRI or SPECT-MRI.
        model: models:/NAME@ALIAS, models:/NAME/VERSION or a model folder; empty is the model that ships.
        strategy: Fusion strategy; empty is the model's own.
        measures: Measures by name, separated by commas; default, or none.
        on_error: What a pair that cannot be fused does: skip (it is reported) or stop.
        phantom_subjects: How many subjects the phantom has.
        phantom_slices: How many slices each phantom subject has.
        seed: The seed of the phantom.
        code_version: The version of the code.
        plan: The pairs to fuse.
        chosen: The model, pinned to its version.
    """
    from pathlib import Path

    from components.batch.steps import check_step
    from components.ingest.phantom import PhantomConfig

    phantom = PhantomConfig(subjects=phantom_subjects, slices=phantom_slices, seed=seed)
    asked = source, destination, collection, model, strategy, measures, on_error
    facts = check_step(*asked, phantom, Path(plan.path), Path(chosen.path))
    plan.metadata.update(facts)
    chosen.metadata.update({"framework": "pytorch", "model": facts["model"]})


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fuse(
    plan: dsl.Input[dsl.Dataset],
    chosen: dsl.Input[dsl.Model],
    destination: str,
    device: str,
    code_version: str,
    fused: dsl.Output[dsl.Dataset],
) -> None:
    """Fuse and measure every pair; what an earlier run by the same model has done of the same images is kept.

    Args:
        plan: The pairs to fuse.
        chosen: The model.
        destination: s3://bucket/prefix or a folder for the results; empty puts them into the output.
        device: What fuses: cpu, cuda, or auto, a GPU where there is one.
        code_version: The version of the code.
        fused: What became of every pair; the results themselves without a destination.
    """
    from pathlib import Path

    from components.batch.steps import fuse_step

    fused.metadata.update(fuse_step(Path(plan.path), Path(chosen.path), destination, Path(fused.path), device))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    plan: dsl.Input[dsl.Dataset],
    chosen: dsl.Input[dsl.Model],
    fused: dsl.Input[dsl.Dataset],
    destination: str,
    git_commit: str,
    code_version: str,
    summary: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Sum a batch up: measures, drift, one page, and the manifest that names the model version.

    Args:
        plan: The pairs.
        chosen: The model.
        fused: What became of every pair.
        destination: s3://bucket/prefix or a folder for the results; empty keeps them as artifacts alone.
        git_commit: The commit of the code.
        code_version: The version of the code.
        summary: measures.csv, measures.json, drift.json, report.html and manifest.json.
        page: The summary to look at.
    """
    import shutil
    from pathlib import Path

    from components.batch.steps import report_step

    before, folder = (Path(plan.path), Path(chosen.path), Path(fused.path)), Path(summary.path)
    manifest = report_step(*before, destination, folder, git_commit, code_version)
    shutil.copyfile(folder / "report.html", page.path)
    summary.metadata.update(manifest["pairs"])
