"""A training checkpoint as bytes: a safetensors file that also holds the facts, whose it is, and its own digest.

Nothing is unpickled: numbers and texts are JSON in the file's metadata, everything else is a tensor. The digest covers
every byte, so that one flipped bit anywhere is noticed.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.errors import InputError

FORMAT = "atlas-fusion checkpoint"
VERSION = "1"

_BLANK = b"0" * 64
_MARK = b'"digest":"'


class Damaged(Exception):
    """These bytes are no whole checkpoint; the text says why."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training run after `step` steps.

    `tensors` are of any dtype and device when saved, on the CPU when loaded; `facts` are what JSON can hold: the
    sampler's position, curves, early stopping.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def packed(checkpoint: Checkpoint, identity: dict[str, Any]) -> bytes:
    """The checkpoint of the run that `identity` tells from others; TypeError if the facts are not JSON."""
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "step": str(checkpoint.step),
        "identity": json.dumps(identity, sort_keys=True),
        "facts": json.dumps(checkpoint.facts),
        "digest": _BLANK.decode(),
    }
    # Copies, since safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in checkpoint.tensors.items()}
    data = bytes(save(tensors, metadata))
    start = data.index(_MARK + _BLANK) + len(_MARK)
    digest = hashlib.sha256(data).hexdigest().encode()
    return b"".join((memoryview(data)[:start], digest, memoryview(data)[start + len(digest) :]))


def unpacked(data: bytes, identity: dict[str, Any], place: str) -> Checkpoint:
    """The checkpoint in `data`, which lies at `place`.

    Raises Damaged if it is not as it was written, InputError if another run wrote it or another version of the format.
    """
    metadata = _checked(data)
    if metadata.get("version") != VERSION:
        raise InputError(
            f"{place} is a checkpoint of format {metadata.get('version')}, this program reads {VERSION}; go on with "
            "the version of the program that wrote it, or name another folder for checkpoints"
        )
    try:
        check_identity(json.loads(metadata["identity"]), identity, place)
        return Checkpoint(int(metadata["step"]), load(data), json.loads(metadata["facts"]))
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f"it cannot be decoded ({type(error).__name__})") from None


def check_identity(saved: dict[str, Any], wanted: dict[str, Any], place: str) -> None:
    """Raise InputError, which names what differs, unless a checkpoint of the run `saved` is one of the run `wanted`."""
    there, here = dict(_settings(saved)), dict(_settings(json.loads(json.dumps(wanted))))
    differing = [name for name in sorted(there.keys() | here.keys()) if there.get(name, ...) != here.get(name, ...)]
    if differing:
        told = "; ".join(f"{name} is {_told(there, name)} there and {_told(here, name)} here" for name in differing)
        raise InputError(
            f"{place} is a checkpoint of another run: {told}; name another folder for checkpoints, or delete it"
        )


def _checked(data: bytes) -> dict[str, str]:
    """The metadata of the bytes of a checkpoint; raises Damaged unless they are as they were written."""
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= len(data) - 8:
        raise Damaged("it is truncated or no safetensors file")
    start = data.find(_MARK, 8, 8 + size) + len(_MARK)
    if start < len(_MARK):
        raise Damaged("it is no checkpoint, or its header is damaged")
    digest, end = hashlib.sha256(memoryview(data)[:start]), start + len(_BLANK)
    digest.update(_BLANK)
    digest.update(memoryview(data)[end:])
    if digest.hexdigest().encode() != data[start:end]:
        raise Damaged("its content is not what was written, by the digest in it")
    try:
        metadata: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
    except (ValueError, KeyError):
        raise Damaged("its header is damaged") from None
    return metadata


def _settings(identity: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of an identity by dotted names, such as `loss.gradient`."""
    for name, value in identity.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _told(settings: dict[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not set"
