"""The exceptions for what a user can mend."""

import re

# A password may hold a slash or another @; a port is none.
_USER = re.compile(r"(?<=://)(?:[^/\s]*@|[^/\s:@]*:(?!\d*(?:/|$))\S*@)")
_QUERY = re.compile(r"(https?://[^\s?'\"]*\?)[^\s'\"),;]+")
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


class MissingWeights(InputError):
    """A method cannot run here for want of its weights: the line is the reason and what to do about it."""


RESUMABLE = 75
"""The exit code of work that was asked to stop, saved where it stood and can go on (EX_TEMPFAIL of sysexits.h)."""


class Stopped(Exception):
    """Work was asked to stop and can go on later; the message says where it stands."""
