"""Compile the pipelines to YAML; the same code gives the same bytes."""

import re
from pathlib import Path
from typing import Any

from components.image import IMAGE
from model.errors import InputError
from model.images import write_atomically

PIPELINES = ("training", "retraining", "sweep", "batch_fusion")
_IMAGE = re.compile(r"[a-z0-9][\w.:/-]*(@sha256:[0-9a-f]{64})?")


def pipeline_named(name: str) -> Any:
    """The pipeline of that name, one of `PIPELINES`; InputError for another."""
    if name not in PIPELINES:
        raise InputError(f"no pipeline {name!r}; choose one of {', '.join(PIPELINES)}")
    from pipelines.batch_fusion import batch_pipeline
    from pipelines.retraining import retraining_pipeline
    from pipelines.sweep import sweep_pipeline
    from pipelines.training import training_pipeline

    return dict(zip(PIPELINES, (training_pipeline, retraining_pipeline, sweep_pipeline, batch_pipeline), strict=True))[
        name
    ]


def compile_pipeline(output: Path, name: str = "training", image: str = "") -> None:
    """Write the compiled pipeline of that name, one of `PIPELINES`, to `output`, whole or not at all.

    Its steps run in `image`, by default the one that components/image.py names. Raises InputError if it cannot be
    written, or for what is no reference of an image.
    """
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"the pipeline is written as YAML; end {output} in .yaml")
    if image and not _IMAGE.fullmatch(image):
        raise InputError(f"{image!r} names no image; give HOST/NAME:TAG or HOST/NAME@sha256:DIGEST")
    pipeline = pipeline_named(name)
    from kfp import compiler

    def write(partial: Path) -> None:
        compiler.Compiler().compile(pipeline, str(partial))
        if image:
            partial.write_text(partial.read_text().replace(IMAGE, image))

    write_atomically(output, write)
