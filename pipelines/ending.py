"""How the program ends: one line for what the user can mend, no word for a reader that left, an exit code for each."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import typer

from model.errors import RESUMABLE, InputError, Stopped, unfit_places_refused

_READER_LEFT = 141  # what a shell reports of a program that SIGPIPE ended


def call(program: Callable[[], None]) -> None:
    """Run a program: what the user can mend ends it by one line and exit code 2, a closed standard output silently."""
    try:
        with unfit_places_refused():
            try:
                program()
            finally:
                if sys.stdout:
                    sys.stdout.flush()
    except InputError as error:
        _refuse(str(error))
    except Stopped as error:
        typer.echo(str(error), err=True)
        sys.exit(RESUMABLE)
    except BrokenPipeError:
        _leave_output(_READER_LEFT)
    except SystemExit as end:
        # typer and rich end the program by themselves when they meet a closed standard output.
        if isinstance(end.__context__, BrokenPipeError):
            _leave_output(_READER_LEFT)
        raise


def _refuse(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    _leave_output(2)


def _leave_output(code: int) -> NoReturn:
    """Exit; what standard output did not take is dropped, where Python's own last attempt would fail again."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
