"""The `fusion batch` command."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.options import Runs


def batch(
    source: Annotated[
        str,
        typer.Argument(help="Folder or s3://bucket/prefix with CT-MRI/CT and CT-MRI/MRI, or CT and MRI; or phantom."),
    ],
    destination: Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix for the results.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model folder, models:/NAME/VERSION or models:/NAME@ALIAS; default: the model that ships with this "
            "program.",
            show_default=False,
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="Fusion strategy (`fusion methods` lists them as dilran-NAME); default: the model's own.",
            show_default=False,
        ),
    ] = None,
    collection: Annotated[str, typer.Option(help="Which pairs: CT-MRI, PET-MRI or SPECT-MRI.")] = "CT-MRI",
    measures: Annotated[
        str, typer.Option(help="Measures by name, comma-separated (`fusion measure` lists them), default, or none.")
    ] = "default",
    on_error: Annotated[
        str, typer.Option(help="What a pair that cannot be fused does: skip (it is reported) or stop.")
    ] = "skip",
    device: Annotated[str, typer.Option(help="What fuses: cpu, cuda, or auto, a GPU where there is one.")] = "auto",
    runs: Runs = Path("runs"),
) -> None:
    """Fuse every pair of a folder or an S3 prefix.

    Names pair the images. Beside the fused images (PNG) stand their measures, the drift from what the model learned
    from, a page that sums all up, and a manifest that names the model version. The same command again keeps what is
    done already; a destination with another model's results is refused.
    """
    from pipelines.batch import fuse_batch, print_batch
    from pipelines.display import progress_bar

    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    asked = source, destination, collection, model, strategy, measures, on_error, device
    try:
        with progress_bar("fuse") as advance:
            manifest = fuse_batch(*asked, runs, advance)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where it ended", err=True)
        sys.exit(130)
    print_batch(manifest, destination)
