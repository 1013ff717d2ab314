"""Compile the training pipeline to YAML; the same code gives the same bytes."""

from pathlib import Path

from model.errors import InputError
from model.images import write_atomically


def compile_pipeline(output: Path) -> None:
    """Write the compiled pipeline to `output`, whole or not at all; raises InputError if it cannot be written."""
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"the pipeline is written as YAML; end {output} in .yaml")
    from kfp import compiler

    from pipelines.training import training_pipeline

    def write(partial: Path) -> None:
        compiler.Compiler().compile(training_pipeline, str(partial))

    write_atomically(output, write)
