"""Addresses as people, logs and the pin may see them: without users, passwords and queries."""

import re

# A password may hold spaces, a slash or another @; a port is none. Without a scheme only user:password@ is one.
_USER = re.compile(
    r"(?:(?<=://)(?:[^/]*@|[^/:@]*:(?!\d*(?:/|$)).*@)|^(?!.*://)[^/:@]+:(?!\d*(?:/|$)|[^@]*/[^@]*@).*@)", re.S
)
_QUERY = re.compile(r"^((?:git\+)?https?://[^?#]*)[?#].*$", re.S | re.I)


def shown_address(address: str) -> str:
    """The address with what stands before its @, and what stands after its path, made unreadable."""
    return _QUERY.sub(r"\1?***", _USER.sub("***@", address))


def holds_secret(address: str) -> bool:
    """Whether an address holds a password or a query; a user alone, as of ssh://git@host, is needed and no secret."""
    before = shown_address(address)
    user = re.fullmatch(r"ssh://[A-Za-z0-9._-]+@[^@?#]*", address)
    return before != address and user is None


def kept_address(address: str) -> str:
    """The address as the pin may keep it."""
    return shown_address(address) if holds_secret(address) else address
