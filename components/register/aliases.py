"""The aliases of a registered model: champion, previous, challenger; and the claim to change them, one at a time."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
GATE_TAG = "gate"
"""The tag of a version that says its alias was set, by the gate's word: promoted or refused."""

LAST_RUN_TAG = "last_pipeline_run"
"""The tag of a version that names the last run of the pipeline that came to the same weights as the first."""

CLAIM = "promotion."
"""The tags of a registered model that begin so are claims: each of a process that is about to change its champion."""
HOLD_SECONDS = 60.0
"""A claim older than this begins no write any more: what it knows may be outdated."""
DEAD_AFTER_SECONDS = 600.0
"""A claim older than this is of a process that has ended: its last write has long timed out, clocks a little apart."""
LOOK_AGAIN_SECONDS = 0.2
_held: set[str] = set()
"""The claims of this process that are held: what else bears its name could not be withdrawn, and is dead."""


def champion(client: MlflowClient, name: str) -> str | None:
    """The version of a model that is champion; None if none is, or there is no such model."""
    found = client.search_registered_models(named(name))
    return aliases(found[0]).get(CHAMPION) if found else None


def aliases(model: RegisteredModel) -> dict[str, str]:
    """The version of each alias of a model."""
    return {alias: str(version) for alias, version in model.aliases.items()}


def named(name: str) -> str:
    """MLflow's search condition for a model's name."""
    quote = '"' if "'" in name else "'"
    return f"name = {quote}{name}{quote}"


@dataclass
class Claim:
    """The claim of this process to change a model's champion: a tag `key` of the model, set at `since` (monotonic)."""

    client: MlflowClient
    name: str
    key: str
    text: dict[str, Any]
    since: float = 0.0

    def make(self) -> None:
        """Set the tag, with the time of now."""
        self.since = time.monotonic()
        self.client.set_registered_model_tag(self.name, self.key, json.dumps(self.text | {"time": time.time()}))

    def withdraw(self) -> None:
        """Take the tag away; nothing happens where it is gone."""
        self.client.delete_registered_model_tag(self.name, self.key)

    @property
    def fresh(self) -> bool:
        """Whether it is young enough to write by."""
        return time.monotonic() - self.since < HOLD_SECONDS

    def check(self) -> None:
        """Raise InputError if others might soon take this process for dead."""
        if not self.fresh:
            raise InputError(
                f"MLflow took over {HOLD_SECONDS:.0f} s to change the aliases of {self.name}; run it again"
            )

    def others(self) -> list[str]:
        """The keys of the other claims; those of processes that have ended are cleared away."""
        return [key for key in living_claims(self.client, self.name) if key != self.key]


def living_claims(client: MlflowClient, name: str) -> list[str]:
    """The keys of the claims to a model's champion in order; those of processes that have ended are cleared away."""
    tags = client.get_registered_model(name).tags
    claims = {key: text for key, text in tags.items() if key.startswith(CLAIM)}
    dead = [key for key, text in claims.items() if _is_dead(key, text)]
    for key in dead:
        client.delete_registered_model_tag(name, key)
    return sorted(set(claims) - set(dead))


@contextmanager
def claimed(client: MlflowClient, name: str, version: str) -> Iterator[Claim]:
    """Hold the only claim to the champion of a model.

    MLflow cannot compare and swap. Everyone sets a flag, then looks at the flags of the others; of two, the one who set
    it later sees the other's, so never do both find themselves alone. Of several the first by name keeps its flag and
    waits, the others withdraw theirs and come back (the one-bit algorithm: Lamport, J. ACM 33(2):327, 1986).
    """
    claim = Claim(client, name, f"{CLAIM}{uuid.uuid4().hex}", {"version": version} | _process(os.getpid()))
    _held.add(claim.key)
    try:
        while not _alone(claim):
            claim.withdraw()
            while claim.others():
                time.sleep(LOOK_AGAIN_SECONDS)
        yield claim
    finally:
        _held.discard(claim.key)
        claim.withdraw()


def _alone(claim: Claim) -> bool:
    """Make the claim and wait for the others to go; False if it is this one's turn to withdraw."""
    claim.make()
    while others := claim.others():
        if others[0] < claim.key or not claim.fresh:
            return False
        time.sleep(LOOK_AGAIN_SECONDS)
    return True


def _process(pid: int) -> dict[str, Any]:
    """What tells a running process from every other one, on any machine; nothing where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return {} if ended else {"machine": machine, "pid": pid, "started": process.create_time()}
    except (OSError, psutil.Error):
        return {}


def _is_dead(key: str, text: str) -> bool:
    """Whether a claim is of a process that has ended: at once on this machine, of others by its age."""
    try:
        claim = json.loads(text)
        if abs(time.time() - claim["time"]) > DEAD_AFTER_SECONDS:
            return True
        if claim.get("machine", "") != _process(os.getpid()).get("machine"):
            return False
        if claim["pid"] == os.getpid() and claim["started"] == _process(os.getpid()).get("started"):
            return key not in _held
        return bool(_process(claim["pid"]).get("started") != claim["started"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return True  # no claim of this program
