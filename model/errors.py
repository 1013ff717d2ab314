"""The exceptions for what a user can mend."""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# A password may hold a slash or another @; a port is none.
_USER = re.compile(r"(?<=://)(?:[^/\s]*@|[^/\s:@]*:(?!\d*(?:/|$))\S*@)")
_QUERY = re.compile(r"(https?://[^\s?'\"]*\?)[^\s'\"),;]+")
# What makes a place unfit whatever a program does there; any other OSError may be a defect of ours.
_UNFIT_PLACE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
}
_BREAKS_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    """The text with every line break, control character and lone surrogate escaped, as a file name may hold them."""
    return _BREAKS_A_LINE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def without_credentials(text: str) -> str:
    """The text with the users, passwords and queries of addresses in it made unreadable."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", text))


class InputError(Exception):
    """Bad input, told in one line: what is wrong, where, and what to do about it.

    Addresses in it show no password. The command line prints the line and exits with code 2; everything else is a
    defect of ours and keeps its traceback.
    """

    def __str__(self) -> str:
        return without_credentials(one_line(super().__str__()))


def unknown_choice(what: str, given: str | Iterable[str], known: Iterable[str]) -> InputError:
    """The refusal of names, one or several, that are none of those `known`; of none at all if there is none."""
    names = [given] if isinstance(given, str) else list(given)
    said = f"unknown {what} {', '.join(map(repr, names))}" if names else f"no {what} given"
    return InputError(f"{said}; choose one of {', '.join(known)}")


@contextmanager
def unfit_places_refused() -> Iterator[None]:
    """Within, an OSError that is the place's fault, such as a full disk, becomes an InputError that says where."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNFIT_PLACE:
            raise
        raise InputError(_unfit(error)) from error


def _unfit(error: OSError) -> str:
    """What the system will not do, and where; it names no place when what was open can take no more."""
    if isinstance(error.filename, str | bytes):
        where = os.fsdecode(error.filename)
        return f"cannot use {where}: {error.strerror}; check its permissions, or choose another place"
    return f"cannot write: {error.strerror}; make room, or write to another place"


class MissingWeights(InputError):
    """A method cannot run here for want of its weights: the line is the reason and what to do about it."""


RESUMABLE = 75
"""The exit code of work that was asked to stop, saved where it stood and can go on (EX_TEMPFAIL of sysexits.h)."""


class Stopped(Exception):
    """Work was asked to stop and can go on later; the message says where it stands."""
