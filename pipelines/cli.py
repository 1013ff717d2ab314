"""The `fusion` command line; every command imports what it needs when it runs."""

import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from model.errors import InputError, Stopped, one_line
from pipelines.batch_command import batch
from pipelines.data import app as data
from pipelines.ending import call
from pipelines.kubeflow.options import PASSES_ON
from pipelines.kubeflow.runs_command import app as runs_at_kubeflow
from pipelines.kubeflow.schedule_command import app as schedule
from pipelines.kubeflow.submit_command import submit
from pipelines.models import app as models
from pipelines.options import Runs, source_path, with_pipeline_parameters
from pipelines.parameters import PROFILES, SEARCHED, TRAINING
from pipelines.sections import Sections
from pipelines.serve_command import serve
from pipelines.view_command import view
from pipelines.weights_commands import app as weights

app = typer.Typer(
    cls=Sections,
    help="Train, judge, register and use networks that fuse medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data, name="data")
app.add_typer(models, name="models")
app.add_typer(weights, name="weights")
app.add_typer(schedule, name="schedule")
app.add_typer(runs_at_kubeflow, name="runs")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    from components.code import git_commit

    commit = git_commit()
    typer.echo(f"atlas-fusion {version('atlas-fusion')}" + (f" (commit {commit})" if commit != "unknown" else ""))
    raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Say the version, and the commit if known.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """What stands before any command."""


@app.command()
@with_pipeline_parameters
def run(
    profile: Annotated[str, typer.Option(help=f"Set of defaults to start from: {' or '.join(PROFILES)}.")] = "quick",
    runs: Runs = Path("runs"),
    scheduled: Annotated[
        bool, typer.Option("--scheduled", help="Think first, as a scheduled run does: train only if anything is new.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="With --scheduled: train even if nothing is new.")] = False,
    **given: Any,
) -> None:
    """Run the whole pipeline on this machine.

    Its steps: data, validation, training, evaluation, registration, reports.
    """
    import signal

    from pipelines.display import LiveSteps, print_summary
    from pipelines.local import NothingNew, StepFailed, run_locally
    from pipelines.parameters import RetrainingParameters
    from pipelines.prepare import prepare

    if force and not scheduled:
        raise InputError("--force is for a run that thinks first; give --scheduled too, or leave it out")
    parameters = prepare(profile, {name: value for name, value in given.items() if value is not None})
    if scheduled:
        parameters = RetrainingParameters(**vars(parameters), force=force)
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    try:
        with LiveSteps() as steps:
            result = run_locally(parameters, runs, steps.tell)
    except StepFailed as error:
        sys.exit(f"error: {one_line(str(error))}")
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    if isinstance(result, NothingNew):
        typer.echo(f"nothing new, no training: {result.reason}")
        typer.echo(f"all done in {result.seconds:.0f} s; --force trains all the same")
    else:
        print_summary(result)


@app.command()
@partial(with_pipeline_parameters, names=TRAINING)
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.", readable=False)],
    profile: Annotated[str, typer.Option(help=f"Set of defaults to start from: {' or '.join(PROFILES)}.")] = "quick",
    checkpoints: Annotated[
        str, typer.Option(help="Folder or s3://bucket/prefix of this training's checkpoints, kept after its end.")
    ] = "",
    **given: Any,
) -> None:
    """Train a network without the pipeline around it.

    It is neither judged nor registered. Stopped by Ctrl-C or SIGTERM (exit code 75) or killed, the same command goes on
    where it was, to the same weights.
    """
    import signal

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, _stop)
    from pipelines.display import progress_bar
    from pipelines.prepare import prepare
    from pipelines.train import train as train_alone

    parameters = prepare(profile, {name: value for name, value in given.items() if value is not None})
    with progress_bar("train") as advance:
        facts = train_alone(parameters, output, checkpoints, advance)
    typer.echo(f"trained {facts['steps']} steps in {facts['seconds']:.0f} s, {facts['images_per_second']:.1f} images/s")
    typer.echo(f"wrote {output}; use it with `fusion fuse A B -o OUT --model {shlex.quote(str(output))}`")


@app.command()
@partial(with_pipeline_parameters, searched=SEARCHED)
def sweep(
    profile: Annotated[str, typer.Option(help=f"Set of defaults to start from: {' or '.join(PROFILES)}.")] = "quick",
    measure: Annotated[
        str,
        typer.Option(
            help="What the best is chosen by, on the validation subjects: a measure of the fused images "
            "(`fusion measure` lists them) or loss."
        ),
    ] = "qabf",
    trials: Annotated[int, typer.Option(help="Draw so many trials of the grid at random, by --seed; 0: all.")] = 0,
    parallel: Annotated[int, typer.Option(help="How many trials train at once.")] = 1,
    register: Annotated[
        bool, typer.Option("--register", help="Register the best model, as `fusion run` does.")
    ] = False,
    runs: Runs = Path("runs"),
    **given: Any,
) -> None:
    """Search for the best training.

    Options marked VALUE,... take several values: every combination is a training of its own, such as in

        fusion sweep --learning-rate 1e-4,1e-3 --width 32,64

    The best on the validation subjects is judged on the test subjects. The same command again goes on where it ended.
    """
    import signal

    from pipelines.local import StepFailed
    from pipelines.search import plan_search, search_locally
    from pipelines.trials import LiveTrials, print_search

    planned = plan_search(
        profile, {name: value for name, value in given.items() if value is not None}, measure, trials, parallel
    )
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    try:
        with LiveTrials(len(planned.trials)) as shown:
            result = search_locally(planned, runs, shown, register)
    except StepFailed as error:
        sys.exit(f"error: {one_line(str(error))}")
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where it ended", err=True)
        sys.exit(130)
    print_search(result)


@app.command("compile")
def compile_(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="YAML file to write; default: the committed ones, all.", readable=False),
    ] = None,
    pipeline: Annotated[
        str, typer.Option(help="With --output, which one: training, retraining, sweep or batch_fusion.")
    ] = "training",
    image: Annotated[
        str,
        typer.Option(help="With --output: the image that the steps run in, HOST/NAME@sha256:DIGEST or HOST/NAME:TAG."),
    ] = "",
) -> None:
    """Compile the pipelines to the YAML that Kubeflow takes.

    They are the training, the retraining of a schedule, the search for the best training and the fusion of many pairs;
    docs/pipelines.md has them.
    """
    from pipelines.compile import PIPELINES, compile_pipeline

    if output is None and (image or pipeline != "training"):
        raise InputError("--image and --pipeline are for a file of your own; name it by --output")
    all_of_them = [(name, Path(f"pipelines/{name}.yaml")) for name in PIPELINES]
    for name, path in all_of_them if output is None else [(pipeline, output)]:
        compile_pipeline(path, name, image)
        typer.echo(f"wrote {path}")


@app.command()
def fuse(
    a: Annotated[Path, typer.Argument(help="First image, folder or volume: CT, PET or SPECT.", parser=source_path)],
    b: Annotated[
        Path, typer.Argument(help="Second image, of the same size, folder or volume: MR.", parser=source_path)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Fused image; of folders a new one; of volumes .nii, .nii.gz or a DICOM folder.",
            readable=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model folder, safetensors file (the authors' published one too), models:/NAME/VERSION or "
            "models:/NAME@ALIAS; default: the model that ships with this program."
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="Fusion strategy (`fusion methods` lists them as dilran-NAME); default: the model's own."),
    ] = None,
    batchnorm: Annotated[
        str | None,
        typer.Option(help="BatchNorm statistics: of each image (image) or stored; default: the model's own."),
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="Of a CT volume: what is shown, CENTRE/WIDTH in Hounsfield units [40/80].")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of a NIfTI output: float32, in [0, 1], or uint8 [float32].")
    ] = None,
    keep_order: Annotated[
        bool, typer.Option("--keep-order", help="Of volumes: take them in this order even if they look swapped.")
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Fuse two images, folders of images or volumes with each other.

    Grey images have 8 or 16 bits; a level counts as its share of 255 or 65535, and the result has 16 bits if either
    source has (PNG and TIFF hold them). One of the two may be in 8-bit colour: its luma is fused, its colour put back.

    Volumes are folders of DICOM files, single DICOM files, .nii or .nii.gz. The second is resampled onto the grid of
    the first where it has another, not registered; the output lies where the first does, and names no patient. What
    each is taken for, and why, is told: by the DICOM header, Hounsfield units, the BIDS sidecar's Modality or the name.
    """
    from pipelines.display import progress_bar
    from pipelines.fuse import fuse_files, load_fuser, model_path
    from pipelines.fuse_folders import are_folders, fuse_folders
    from pipelines.fuse_volumes import are_volumes, fuse_volumes

    def load() -> Any:
        return load_fuser(model_path(model, runs), strategy, batchnorm)

    if not are_volumes(a, b):
        for option, value in (("--window", window), ("--dtype", dtype), ("--keep-order", keep_order or None)):
            if value is not None:
                raise InputError(f"{option} is for volumes, and {a} is none; leave it out")
        if not are_folders(a, b):
            fuse_files(a, b, output, model, strategy, batchnorm, runs)
            typer.echo(one_line(f"fused {a} and {b}; wrote {output}"))
            return
        with progress_bar("fuse") as advance:
            count, alone = fuse_folders(a, b, output, load, advance)
        left = f"; left out: {alone} without a partner of the same name" if alone else ""
        typer.echo(one_line(f"fused {count} pair{'s' if count > 1 else ''}; wrote {output}{left}"))
        return
    with progress_bar("fuse") as advance:
        done = fuse_volumes(a, b, output, load, window, dtype, advance, keep_order=keep_order)
    slices = f"{done.slices} slice{'s' if done.slices > 1 else ''}"
    typer.echo(one_line(f"first: {a} ({done.first}); second: {b} ({done.second})"))
    typer.echo(one_line(f"fused {slices}, {done.how}; wrote {output}"))


app.command()(batch)
app.command(context_settings=PASSES_ON)(submit)
app.command()(serve)
app.command()(view)


@app.command("measure")
def measure_(
    a: Annotated[Path, typer.Argument(help="First source.", parser=source_path)],
    b: Annotated[Path, typer.Argument(help="Second source, of the same size.", parser=source_path)],
    fused: Annotated[Path, typer.Argument(help="The fused image, of the same size.", parser=source_path)],
    protocol: Annotated[
        str, typer.Option(help="Definitions of the measures: the field's (standard) or the poster's (poster).")
    ] = "standard",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Judge a fused image beside its sources by every measure. Of colour images the luma counts."""
    from pipelines.measure import measure_files, print_measures

    result = measure_files(a, b, fused, protocol)
    if as_json:
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print_measures(result)


@app.command()
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List every fusion method. Says its source, what it needs, and whether its weights ship."""
    from pipelines.methods import describe, print_methods

    if as_json:
        typer.echo(json.dumps(describe(), indent=1, ensure_ascii=False))
    else:
        print_methods(describe())


@app.command()
def table(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the table: new, empty or holding an older one.", readable=False
        ),
    ],
    protocol: Annotated[
        str, typer.Option(help="Definitions of the measures: the field's (standard) or the poster's (poster).")
    ] = "standard",
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with CT-MRI/CT and CT-MRI/MRI, or phantom; default: data, or the phantom without it."
        ),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods by name, comma-separated (`fusion methods`); default: the protocol's.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Test pairs: by subject or the paper's (paper); default: the protocol's.")
    ] = None,
    vgg: Annotated[
        Path | None, typer.Option(help="VGG19 safetensors file; default: the model zoo's.", readable=False)
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(help="The authors' published weights as safetensors, for a row of their own.", readable=False),
    ] = None,
) -> None:
    """Compare fusion methods on the same pairs. Writes a table with intervals, tests and pictures."""
    from pipelines.table import make_table

    make_table(output, protocol, data, methods, split, vgg, published)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    runs: Runs = Path("runs"),
) -> None:
    """Serve the MLflow page of the local store; Ctrl-C ends it."""
    import socket

    from components.tracking import check_reachable
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


def _stop(number: int, frame: Any) -> NoReturn:  # noqa: ARG001
    """What a signal does as long as the training has not begun."""
    raise Stopped("stopped before it had begun; run it again")


def main() -> None:
    """The entry point."""
    call(app)


if __name__ == "__main__":
    main()
