"""The preprocess step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def preprocess(
    dataset: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    split: str,
    split_seed: int,
    size: int,
    normalise: str,
    register_pairs: bool,
    code_version: str,
    packed: dsl.Output[dsl.Dataset],
) -> None:
    """Split the pairs and pack them for training; a dataset that failed validation ends the run here.

    Args:
        dataset: The ingested dataset.
        validation: The validation's report.
        split: subject (whole subjects held out), fold:K/N (one of N folds of subjects) or paper (leaks).
        split_seed: Which subjects are held out follows from this seed.
        size: Side in pixels that every image is brought to; 0 leaves them as they are, all of one size.
        normalise: Levels: none, or percentile (stretched by modality, from the training subjects).
        register_pairs: Move the second image of each pair onto the first where that gains mutual information.
        code_version: The version of the code, part of the cache key.
        packed: Arrays in shards a split, and index.json.
    """
    from pathlib import Path

    from components.preprocess.packing import pack, summarise
    from components.preprocess.preparation import Preparation
    from components.validate.report import ValidationReport

    ValidationReport.read(Path(validation.path)).require_passed()
    preparation = Preparation(size, normalise, register_pairs)
    told = summarise(pack(Path(dataset.path), split, split_seed, Path(packed.path), preparation))
    packed.metadata.update(told)
    print("preprocess:", *(f"{name} {value};" for name, value in told.items()))
