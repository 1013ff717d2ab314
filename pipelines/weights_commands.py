"""The `fusion weights` commands."""

import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Convert published weights, train the shipped ones again.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def convert(
    published: Annotated[Path, typer.Argument(help="The authors' weights as safetensors.", readable=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Model folder to write, or one file ending in .safetensors.", readable=False
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is there.")] = False,
) -> None:
    """Make a model of the authors' published weights. It fuses as they published it."""
    from pipelines.weights import convert as convert_published

    convert_published(published, output, force)
    typer.echo(f"wrote {output}; use it with `fusion fuse A B -o OUT --model {shlex.quote(str(output))}`")


@app.command()
def statistics(
    model: Annotated[Path, typer.Argument(help="Model folder, as training wrote it.", readable=False)],
    data: Annotated[str, typer.Option(help="The data that it was trained on: folder or s3://bucket/prefix.")] = "data",
) -> None:
    """Keep the statistics of its training images with a model. `fusion batch` tells drift by them."""
    from components.validate.learned import write_statistics

    # The steps behind it print their progress for a log; here it is over in seconds.
    with redirect_stdout(StringIO()):
        told = write_statistics(model, data)
    images = sum(each["images"] for each in told["modalities"].values())
    typer.echo(f"wrote {model / 'data_statistics.json'}: {images} images of {len(told['subjects'])} subjects")


@app.command()
def train(
    names: Annotated[list[str], typer.Argument(help="Which: {dilran,dilran-mse,msrpan,msdra}-{subject,paper}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model folders.", readable=False)],
    data: Annotated[str, typer.Option(help="Folder with CT-MRI/CT and CT-MRI/MRI, the atlas.")] = "data",
    perceptual: Annotated[
        str, typer.Option(help="Feature stack of the perceptual loss: vgg16-bn, vgg19, or a VGG safetensors file.")
    ] = "vgg19",
) -> None:
    """Train the shipped weights again by the recipes that made them."""
    from pipelines.weights import train as train_again

    train_again(names, data, perceptual, output)
    typer.echo(f"wrote {', '.join(str(output / name) for name in names)}")
