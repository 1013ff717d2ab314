"""Ask a person before something that cannot be taken back."""

import sys

import typer

from model.errors import InputError, one_line


def ask(question: str, yes: bool) -> None:
    """Return if the user agrees; InputError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} Nobody is there to be asked; say so with --yes")
    if not typer.confirm(one_line(question)):
        typer.echo("nothing changed")
        sys.exit(1)
