"""The options that several commands share, and the pipeline's parameters as options of a command."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from model.errors import InputError
from pipelines.parameters import described

Runs = Annotated[
    Path,
    typer.Option(envvar="FUSION_RUNS", help="Folder of runs, their cache and the local MLflow store.", readable=False),
]


def source_path(text: str) -> Path:
    """The path of a source; InputError for an empty one, as of a shell's variable that is not set, since it is "."."""
    if not text:
        raise InputError("the name of a source is empty; name an image, a folder or a volume (. is this folder)")
    return Path(text)


_GIVEN_ELSEWHERE = ("profile", "code_version", "git_commit")


def with_pipeline_parameters(
    command: Callable[..., None], names: Sequence[str] | None = None, searched: tuple[str, ...] = ()
) -> Callable[..., None]:
    """Give a command the pipeline's parameters (of these names) as options; those given arrive as keyword arguments.

    Those `searched` take several values, separated by commas, and arrive as they were typed.
    """
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                (str if name in searched else kind) | None,
                typer.Option(
                    help=f"{text} [quick: {default!r}]",
                    show_default=False,
                    metavar="VALUE,..." if name in searched else None,
                ),
            ],
        )
        for name, kind, default, text in described()
        if (name in names if names is not None else name not in _GIVEN_ELSEWHERE)
    ]
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return command
