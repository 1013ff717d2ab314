"""Addresses as they are shown: no password, no query, and otherwise as they were given."""

import pytest

from components.ingest.address import holds_secret, kept_address, shown_address
from components.ingest.git_source import GitSource
from components.ingest.remote import parse_remote
from model.errors import InputError

SECRET = [
    ("https://user:secret@host/x", "https://***@host/x"),
    ("https://user:sec@secret@host/a@b", "https://***@host/a@b"),
    ("https://user:se/secret@host/x", "https://***@host/x"),
    ("ssh://git:secret@host/group/a", "ssh://***@host/group/a"),
    ("s3://AKIA:secret@bucket/prefix", "s3://***@bucket/prefix"),
    ("https://host/x?token=secret", "https://host/x?***"),
    ("user:secret@host/x", "***@host/x"),
    ("https://user:sec ret@host/x", "https://***@host/x"),
]
PLAIN = ["https://host:8080/a@b", "s3://bucket/pre#fix?", "/disk/a@b", "a@b.zip", "C:/x@y", "file:///tmp/a:b/x@c"]


@pytest.mark.parametrize(("given", "shown"), SECRET)
def test_a_secret_is_shown_in_no_address(given, shown):
    assert shown_address(given) == kept_address(given) == shown and holds_secret(given)


@pytest.mark.parametrize("given", PLAIN)
def test_an_address_without_one_stays(given):
    assert shown_address(given) == kept_address(given) == given and not holds_secret(given)


def test_a_user_that_git_needs_is_kept_and_not_shown():
    assert kept_address("ssh://git@host/group/a") == "ssh://git@host/group/a"
    assert shown_address("ssh://git@host/group/a") == "ssh://***@host/group/a"


@pytest.mark.parametrize("given", [given for given, _ in SECRET])
def test_whatever_refuses_an_address_shows_no_secret(given, tmp_path):
    for refuse in (
        lambda: GitSource(given, "0" * 40, tmp_path),
        lambda: GitSource(given, given, tmp_path),
        lambda: parse_remote(given),
    ):
        with pytest.raises(InputError) as told:
            refuse()
        assert "secret" not in str(told.value)


def test_no_line_of_an_error_shows_a_password():
    said = str(InputError("at https://user:secret@host:80/x and s3://key:secret@b/p?x, see https://host/a@b"))
    assert said == "at https://***@host:80/x and s3://***@b/p?x, see https://host/a@b"
