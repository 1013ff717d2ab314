"""The `fusion view` command."""

from pathlib import Path
from typing import Annotated

import typer

from model.errors import one_line
from pipelines.options import Runs, source_path


def view(
    a: Annotated[
        Path, typer.Argument(help="First image, folder of images or volume: CT, PET, SPECT.", parser=source_path)
    ],
    b: Annotated[Path, typer.Argument(help="Second: MR; images of folders pair by name.", parser=source_path)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write.", readable=False)] = Path("view.html"),
    model: Annotated[str | None, typer.Option(help="As `fusion fuse` takes it; default: the shipped one.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Fusion strategies of it, comma-separated; default: the model's own.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Other methods beside it, comma-separated (`fusion methods`); empty for none.")
    ] = "average,maximum,laplacian",
    batchnorm: Annotated[
        str | None,
        typer.Option(help="BatchNorm statistics: of each image (image) or stored; default: the model's own."),
    ] = None,
    pairs: Annotated[int, typer.Option(help="At most so many pairs or slices, spread evenly over all.")] = 24,
    window: Annotated[
        str | None, typer.Option(help="Of a CT volume: what is fused and shown at first, CENTRE/WIDTH in HU [40/80].")
    ] = None,
    keep_order: Annotated[
        bool, typer.Option("--keep-order", help="Of volumes: take them in this order even if they look swapped.")
    ] = False,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    runs: Runs = Path("runs"),
) -> None:
    """Look at two sources and what fuses them, in the browser.

    The page is one file that needs no network: sources, fused images, weights and differences side by side, a slider
    between any two, zoom, window and level, values under the pointer. It holds at most 128 million pixels: a pair of
    256x256 with four methods takes 0.6.
    """
    from pipelines.display import progress_bar
    from pipelines.view import Network, open_in_browser
    from pipelines.view import view as write_view

    with progress_bar("view") as advance:
        count = write_view(
            *(a, b, output, Network(model, strategy, batchnorm), methods, runs, pairs, window, keep_order, advance)
        )
    opened = show and open_in_browser(output)
    typer.echo(
        one_line(f"wrote {output}: {count} pair{'s' if count > 1 else ''}{'' if opened else '; open it in a browser'}")
    )
