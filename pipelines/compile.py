"""Compile the pipelines to YAML; the same code gives the same bytes."""

from pathlib import Path

from model.errors import InputError
from model.images import write_atomically


def compile_pipeline(output: Path, name: str = "training") -> None:
    """Write the compiled pipeline of that name, training or sweep, to `output`, whole or not at all.

    Raises InputError if it cannot be written.
    """
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"the pipeline is written as YAML; end {output} in .yaml")
    from kfp import compiler

    from pipelines.sweep import sweep_pipeline
    from pipelines.training import training_pipeline

    pipeline = {"training": training_pipeline, "sweep": sweep_pipeline}[name]

    def write(partial: Path) -> None:
        compiler.Compiler().compile(pipeline, str(partial))

    write_atomically(output, write)
