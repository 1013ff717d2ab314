"""The `fusion` command line; every command imports what it needs when it runs."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from model.errors import InputError
from pipelines.parameters import PROFILES, described

app = typer.Typer(
    help="Train, judge, register and use networks that fuse medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data = typer.Typer(help="Make and inspect datasets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data")

_GIVEN_ELSEWHERE = ("profile", "code_version", "git_commit")

Runs = Annotated[
    Path, typer.Option(envvar="FUSION_RUNS", help="Folder of runs, their cache and the local MLflow store.")
]


def with_pipeline_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every parameter of the training pipeline as an option; those given arrive as keyword arguments."""
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, typer.Option(help=f"{text} [quick: {default!r}]", show_default=False)],
        )
        for name, kind, default, text in described()
        if name not in _GIVEN_ELSEWHERE
    ]
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return command


@app.command()
@with_pipeline_parameters
def run(
    profile: Annotated[str, typer.Option(help=f"Set of defaults to start from: {' or '.join(PROFILES)}.")] = "quick",
    runs: Runs = Path("runs"),
    **given: Any,
) -> None:
    """Run the whole pipeline on this machine: data, validation, training, evaluation, registration, reports."""
    import signal

    from pipelines.display import LiveSteps, print_summary
    from pipelines.local import StepFailed, run_locally
    from pipelines.prepare import prepare

    parameters = prepare(profile, {name: value for name, value in given.items() if value is not None})
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    try:
        with LiveSteps() as steps:
            result = run_locally(parameters, runs, steps.tell)
    except StepFailed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    print_summary(result)


@app.command("compile")
def compile_(
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file to write.")] = Path(
        "pipelines/training.yaml"
    ),
) -> None:
    """Compile the training pipeline to the YAML that Kubeflow takes."""
    from pipelines.compile import compile_pipeline

    compile_pipeline(output)
    typer.echo(f"wrote {output}")


@app.command()
def fuse(
    a: Annotated[Path, typer.Argument(help="First image (CT), 8-bit grey.", readable=False)],
    b: Annotated[Path, typer.Argument(help="Second image (MR), same size.", readable=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write the fused image to.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model folder, or models:/NAME/VERSION or models:/NAME@ALIAS; default: the last run's model."
        ),
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="Fusion strategy; default: the model's own.")] = None,
    batchnorm: Annotated[
        str | None,
        typer.Option(help="BatchNorm statistics: of each image (image) or stored; default: the model's own."),
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Fuse two images into one."""
    from pipelines.fuse import fuse_files

    fuse_files(a, b, output, model, strategy, batchnorm, runs)


@data.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must be new or empty.")],
    subjects: Annotated[int, typer.Option(help="How many subjects.")] = 8,
    slices: Annotated[int, typer.Option(help="How many slices each.")] = 8,
    size: Annotated[int, typer.Option(help="Side of a slice in pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 3407,
) -> None:
    """Write the phantom dataset: heads with ground truth, sliced into CT-MR pairs."""
    from components.ingest.phantom import PhantomConfig, write_phantom
    from pipelines.display import progress_bar

    config = PhantomConfig(subjects=subjects, slices=slices, size=size, seed=seed)
    with progress_bar("phantom") as advance:
        write_phantom(folder, config, advance)
    typer.echo(f"wrote {subjects * slices} pairs of {subjects} subjects to {folder}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    runs: Runs = Path("runs"),
) -> None:
    """Open the MLflow page on the local store; Ctrl-C ends it."""
    import socket

    from components.register.tracking import check_reachable
    from pipelines.local import local_tracking_uri

    if not (runs / "mlflow.db").exists():
        raise InputError(f"no local MLflow store in {runs}; `fusion run` makes one")
    check_reachable(local_tracking_uri(runs))
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise InputError(f"port {port} is taken; choose another with --port")
    typer.echo(f"MLflow at http://127.0.0.1:{port}, in some ten seconds (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", local_tracking_uri(runs)]
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
    }
    os.execve(
        sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"], os.environ | settings
    )


def main() -> None:
    """The entry point: bad input ends with one line and exit code 2."""
    try:
        app()
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
