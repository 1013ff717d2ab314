"""The authors' published weights: which of their tensors are which of ours, and how their file is read.

The file is `pretrained/last.pt` of github.com/simonZhou86/dilran (Zhou, Xu, Zhang, arXiv 2212.04661, 2022; Apache-2.0),
saved as safetensors under its original names. It holds 302,721 parameters. The forward pass uses 216,001 of them:

| published | here | what it is | parameters |
|---|---|---|---:|
| fe.conv1 | encoder.lift | 1x1 convolution 1 -> 64 of the shallow features | 128 |
| fe.fe.convd1 | encoder.dilated.0 | 3x3 convolution 64 -> 64, dilation 1 | 36,928 |
| fe.fe.convd2 | encoder.dilated.1 | the same, dilation 3 | 36,928 |
| fe.fe.convd3 | encoder.dilated.2 | the same, dilation 5 | 36,928 |
| fe.fe.reduce | encoder.reduce | 1x1 convolution 192 -> 64 | 12,352 |
| fe.fe.bnorm1 | encoder.norm | the BatchNorm of both normalisations | 128 |
| fe.fe.dilran.conv_d | encoder.residual | the one convolution of DILRAN | 36,928 |
| recon.recon_conv.0 | decoder.0 | 3x3 convolution 64 -> 64 | 36,928 |
| recon.recon_conv.1 | decoder.1 | 3x3 convolution 64 -> 32 | 18,464 |
| recon.recon_conv.2 | decoder.2 | 3x3 convolution 32 -> 1 | 289 |

The other 86,720 are stored and never used by the published forward pass, so they are dropped:

| published | what it would be | parameters |
|---|---|---:|
| fe.conv_id | 1x1 convolution 192 -> 64 | 12,352 |
| fe.conv2 | two 3x3 convolutions 64 -> 64, each with a BatchNorm | 74,112 |
| fe.bnorm | BatchNorm | 128 |
| fe.fe.dilran.bnorm | BatchNorm | 128 |
"""

import shlex
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from model.errors import InputError
from model.network import Autoencoder, FusionNetwork

PUBLISHED = {
    "fe.conv1": "encoder.lift",
    "fe.fe.convd1": "encoder.dilated.0",
    "fe.fe.convd2": "encoder.dilated.1",
    "fe.fe.convd3": "encoder.dilated.2",
    "fe.fe.reduce": "encoder.reduce",
    "fe.fe.bnorm1": "encoder.norm",
    "fe.fe.dilran.conv_d": "encoder.residual",
    "recon.recon_conv.0": "decoder.0",
    "recon.recon_conv.1": "decoder.1",
    "recon.recon_conv.2": "decoder.2",
}
UNUSED = ("fe.conv_id", "fe.conv2", "fe.bnorm", "fe.fe.dilran.bnorm")

_OURS = {ours: published for published, ours in PUBLISHED.items()}
_PICKLES = (b"PK\x03\x04", b"\x80")


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file, by name, without reading the tensors.

    Raises InputError if there is no such file or it is no whole safetensors file; for a PyTorch pickle, with the
    command that converts it.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start.startswith(_PICKLES):
            raise InputError(_pickle(path))
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"no such weights file: {path}; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name one safetensors file") from None
    except SafetensorError as error:
        raise InputError(f"{path} is truncated or no safetensors file ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; check its path and permissions") from None


def is_published(names: Collection[str]) -> bool:
    """Whether tensor names are those of the published file, judged by their first part."""
    return any(name.startswith(("fe.", "recon.")) for name in names)


def read_published(path: Path) -> FusionNetwork:
    """The network with the published weights of a safetensors file, under their original names.

    Raises InputError unless the file holds every tensor that the forward pass uses, in its shape and finite, and no
    other than those the tables name.
    """
    shapes = read_shapes(path)
    if not is_published(shapes):
        ours = "; it holds this program's own names, so --model takes it as it is"
        known = ours if set(shapes) == set(FusionNetwork().state_dict()) else "; name the authors' file"
        raise InputError(f"{path} holds none of the published tensors, fe.* and recon.*{known}")
    network = FusionNetwork()
    source = {name: _published_name(name) for name in network.state_dict()}
    expected = {source[name]: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    unused = tuple(f"{module}." for module in UNUSED)
    for found, what in (
        (sorted(expected.keys() - shapes.keys()), "lacks"),
        (sorted(name for name in shapes.keys() - expected.keys() if not name.startswith(unused)), "has the unknown"),
    ):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise InputError(f"{path} {what} {found[0]}{more}; it is not the published network's file")
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise InputError(
                f"{path}: {name} is {_by(shapes[name])}, the published network's is {_by(shape)}; "
                "it holds another architecture"
            )
    load_tensors(network, path, source)
    return network


def load_tensors(network: Autoencoder, path: Path, source: dict[str, str]) -> None:
    """Fill a network from a safetensors file, `source` being the name in the file of each of its tensors.

    Raises InputError if a value is not finite. Names and shapes must have been checked.
    """
    tensors: dict[str, Tensor] = load_file(path)
    for name in source.values():
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"{path}: {name} has values that are not finite; fetch the file again")
    network.load_state_dict({ours: tensors[name] for ours, name in source.items()})


def _published_name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{_OURS[module]}.{leaf}"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _pickle(path: Path) -> str:
    saved, target = str(path), str(path.with_suffix(".safetensors"))
    code = (
        "import torch, safetensors.torch; "
        f"safetensors.torch.save_file(torch.load({saved!r}, weights_only=True), {target!r})"
    )
    return f"{path} is a PyTorch pickle, which is not read here; convert it once: python -c {shlex.quote(code)}"
