"""The ingest step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    data: str,
    data_version: str,
    collection: str,
    phantom_subjects: int,
    phantom_slices: int,
    seed: int,
    code_version: str,
    dataset: dsl.Output[dsl.Dataset],
) -> None:
    """Bring one exact version of a collection's pairs in, with a manifest.

    Args:
        data: A folder holding CT-MRI/CT and CT-MRI/MRI, s3://bucket/prefix, or "phantom" for the built-in generator.
        data_version: The version the data must have, <md5>.dir as DVC names it; empty accepts any folder; S3 needs it.
        collection: Which pairs: CT-MRI, PET-MRI or SPECT-MRI; the phantom has CT-MRI.
        phantom_subjects: How many subjects the phantom has.
        phantom_slices: How many slices each phantom subject has.
        seed: The seed of the phantom.
        code_version: The version of the code, part of the cache key.
        dataset: The images, manifest.csv and dataset.json.
    """
    from pathlib import Path

    from components.ingest.dataset import ingest
    from components.ingest.phantom import PhantomConfig

    phantom = PhantomConfig(subjects=phantom_subjects, slices=phantom_slices, seed=seed)
    facts = ingest(data, data_version, phantom, Path(dataset.path), collection)
    # KFP's local cache takes no list in the metadata for the same one again.
    dataset.metadata.update({key: value for key, value in facts.items() if not isinstance(value, list)})
