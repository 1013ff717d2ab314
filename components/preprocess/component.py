"""The preprocess step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def preprocess(
    dataset: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    split: str,
    split_seed: int,
    code_version: str,
    packed: dsl.Output[dsl.Dataset],
) -> None:
    """Split the pairs and pack them for training; a dataset that failed validation ends the run here.

    Args:
        dataset: The ingested dataset.
        validation: The validation's report.
        split: subject (whole subjects held out), fold:K/N (one of N folds of subjects) or paper (leaks).
        split_seed: Which subjects are held out follows from this seed.
        code_version: The version of the code, part of the cache key.
        packed: Arrays in shards a split, and index.json.
    """
    from pathlib import Path

    from components.preprocess.packing import pack
    from components.validate.report import ValidationReport

    ValidationReport.read(Path(validation.path)).require_passed()
    index = pack(Path(dataset.path), split, split_seed, Path(packed.path))
    packed.metadata.update({split: len(entries) for split, entries in index["splits"].items()})
    packed.metadata["dataset_version"] = index["dataset_version"]
