"""Compile the training pipeline to YAML; the same code gives the same bytes."""

from pathlib import Path

from model.images import write_atomically


def compile_pipeline(output: Path) -> None:
    """Write the compiled pipeline to `output`, whole or not at all; raises InputError if it cannot be written."""
    from kfp import compiler

    from pipelines.training import training_pipeline

    def write(partial: Path) -> None:
        compiler.Compiler().compile(training_pipeline, str(partial))

    write_atomically(output, write)
