"""Where DVC's remote and its cache are, as its configuration and the environment say."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.ingest.address import shown_address
from model.errors import InputError

REMOTE_VARIABLE = "ATLAS_FUSION_REMOTE"
FROM_ENVIRONMENT = "atlas-fusion-environment"
"""The name of a remote that is known by its address alone."""


@dataclass(frozen=True)
class Remote:
    """Where DVC pushes to and pulls from: its name, its address, and who said so; `url` is None without any remote.

    The address may hold a password: `str` of a remote is the address as people and logs may see it.
    """

    name: str | None
    url: str | None = field(repr=False)
    origin: str

    def __str__(self) -> str:
        return shown_address(self.url or "")


def configured_remote(root: Path, name: str | None = None) -> Remote:
    """The remote that pull and push use: the one named, or of the environment, or DVC's default one."""
    url = os.environ.get(REMOTE_VARIABLE)
    if name is None and url:
        return Remote(FROM_ENVIRONMENT, url, REMOTE_VARIABLE)
    config = configuration(root)
    name = name or config.get("core", {}).get("remote")
    remotes = config.get("remote", {})
    if name is None:
        return Remote(None, None, "DVC's configuration")
    if name not in remotes:
        there = f"there are {', '.join(sorted(remotes))}" if remotes else "there is none"
        raise InputError(f"DVC has no remote {name}; {there}, and `dvc remote add {name} s3://BUCKET/PREFIX` adds one")
    return Remote(name, str(remotes[name].get("url", "")), "DVC's configuration")


def remote_at(url: str, origin: str = "the command line") -> Remote:
    """A remote by its address alone."""
    return Remote(FROM_ENVIRONMENT, url, origin)


def cache_folder(root: Path) -> Path:
    """Where DVC keeps its objects for this checkout."""
    directory = configuration(root).get("cache", {}).get("dir")
    return (root / ".dvc" / directory if directory else root / ".dvc" / "cache") / "files" / "md5"


def check_remote(remote: Remote) -> None:
    """Raise InputError unless there is a remote, by a whole address."""
    if not remote.url:
        raise InputError(
            f"DVC has no default remote here; set {REMOTE_VARIABLE}=s3://BUCKET/PREFIX, or `dvc remote add --default`"
        )
    if "://" not in remote.url and not Path(remote.url).is_absolute():
        raise InputError(
            f"{remote.origin} gives {str(remote)!r} as the remote; give s3://BUCKET/PREFIX or a whole path"
        )


def configuration(root: Path) -> dict[str, Any]:
    """DVC's configuration of this checkout, all levels merged."""
    from dvc.config import Config, ConfigError

    if not (root / ".dvc").is_dir():
        raise InputError(f"{root} has no .dvc folder; restore it with `git checkout .dvc`")
    try:
        return dict(Config(str(root / ".dvc"), validate=True))
    except ConfigError as error:
        raise InputError(f"DVC's configuration in {root / '.dvc'} cannot be read: {error}; mend it") from None
