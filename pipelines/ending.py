"""How the program ends: one line for what the user can mend, no word for a reader that left, an exit code for each."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import typer

from model.errors import RESUMABLE, InputError, Stopped, one_line

# What makes a place unfit whatever a program does there; any other OSError may be a defect of ours.
_UNFIT_PLACE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
}
_READER_LEFT = 141  # what a shell reports of a program that SIGPIPE ended


def call(program: Callable[[], None]) -> None:
    """Run a program: what the user can mend ends it by one line and exit code 2, a closed standard output silently."""
    try:
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
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            _leave_output(_READER_LEFT)
        if error.errno not in _UNFIT_PLACE:
            raise
        _refuse(_unfit(error))
    except SystemExit as end:
        # typer and rich end the program by themselves when they meet a closed standard output.
        if isinstance(end.__context__, BrokenPipeError):
            _leave_output(_READER_LEFT)
        raise


def _unfit(error: OSError) -> str:
    """What the system will not do, and where; it names no place when what was open can take no more."""
    if isinstance(error.filename, str | bytes):
        where = os.fsdecode(error.filename)
        return one_line(f"cannot use {where}: {error.strerror}; check its permissions, or choose another place")
    return f"cannot write: {error.strerror}; make room, or write to another place"


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
