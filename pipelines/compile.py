"""Compile the pipelines to YAML; the same code gives the same bytes."""

from pathlib import Path

from components.image import IMAGE
from model.errors import InputError
from model.images import write_atomically

PIPELINES = ("training", "sweep", "batch_fusion")


def compile_pipeline(output: Path, name: str = "training", image: str = "") -> None:
    """Write the compiled pipeline of that name, one of `PIPELINES`, to `output`, whole or not at all.

    An `image` takes the place of the steps' own.

    Raises InputError if it cannot be written.
    """
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"the pipeline is written as YAML; end {output} in .yaml")
    from kfp import compiler

    from pipelines.batch_fusion import batch_pipeline
    from pipelines.sweep import sweep_pipeline
    from pipelines.training import training_pipeline

    pipeline = dict(zip(PIPELINES, (training_pipeline, sweep_pipeline, batch_pipeline), strict=True))[name]

    def write(partial: Path) -> None:
        compiler.Compiler().compile(pipeline, str(partial))
        if image:
            text = partial.read_text(encoding="utf-8")
            partial.write_text(text.replace(f"image: {IMAGE}\n", f"image: {image}\n"), encoding="utf-8")

    write_atomically(output, write)
