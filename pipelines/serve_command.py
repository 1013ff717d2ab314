"""The `fusion serve` command."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.options import Runs


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model folder, models:/NAME/VERSION or models:/NAME@ALIAS; default: the model that ships with this "
            "program."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: every one of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: any that is free.")] = 8080,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda if there is one.")] = "auto",
    inputs: Annotated[
        str | None, typer.Option(help="Names of both inputs; default: as registered, or ct,mri.", show_default=False)
    ] = None,
    max_body: Annotated[int, typer.Option(help="The largest body of a request, in MiB.")] = 64,
    runs: Runs = Path("runs"),
) -> None:
    """Serve a model over HTTP; Ctrl-C ends it.

    The protocol is that of MLflow's models; docs/consumers.md shows requests. It asks nobody who they are: keep it
    behind something that does.
    """
    from pipelines.serve import serve as serve_model

    serve_model(model, host, port, device, inputs, max_body, runs, typer.echo)
