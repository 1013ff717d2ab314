"""A saved model and a fusion strategy, ready to fuse images: what consumers and the registry use."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from model.errors import InputError
from model.network import FusionNetwork
from model.strategies import STRATEGIES

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"
BATCHNORM = ("image", "stored")


@dataclass(frozen=True)
class FuserConfig:
    """How a saved network fuses: its strategy, and whose statistics BatchNorm uses ("image" or "stored")."""

    strategy: str = "sfnn"
    batchnorm: str = "image"
    network: str = "dilran"

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.strategy, tuple(STRATEGIES), "fusion strategy"),
            (self.batchnorm, BATCHNORM, "BatchNorm statistics"),
            (self.network, ("dilran",), "network"),
        ):
            if value not in known:
                raise InputError(f"unknown {what} {value!r}; choose one of {', '.join(known)}")


class Fuser:
    """Fuses pairs of grey images with one network and one strategy."""

    def __init__(self, network: FusionNetwork, config: FuserConfig | None = None, device: str = "cpu") -> None:
        self.config = config or FuserConfig()
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)

    @classmethod
    def load(
        cls, folder: Path, strategy: str | None = None, batchnorm: str | None = None, device: str = "cpu"
    ) -> "Fuser":
        """Load a model folder (`weights.safetensors`, `config.json`), optionally with another strategy or statistics.

        Raises InputError if the folder, its configuration or its weights do not make a network of this architecture.
        """
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise InputError(
                    f"{folder} holds no model: {name} is missing; name a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
                )
        network = FusionNetwork()
        try:
            saved = json.loads((folder / CONFIG_FILE).read_text())
            network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder} holds a damaged model ({error}); fetch it again") from None
        except RuntimeError:
            raise InputError(
                f"{folder / WEIGHTS_FILE} holds the weights of another architecture; train or fetch a model of this one"
            ) from None
        if not isinstance(saved, dict) or not set(saved) <= set(FuserConfig.__dataclass_fields__):
            raise InputError(f"{folder / CONFIG_FILE} is not the configuration of this program's model; fetch it again")
        changes = {"strategy": strategy, "batchnorm": batchnorm}
        return cls(network, FuserConfig(**saved | {k: v for k, v in changes.items() if v is not None}), device)

    def save(self, folder: Path) -> None:
        """Write the model folder; the same network and configuration give the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous().cpu() for name, tensor in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=2) + "\n")

    @property
    def strategy(self) -> str:
        """The name of the fusion strategy."""
        return self.config.strategy

    @property
    def batchnorm(self) -> Literal["image", "stored"]:
        """Whose statistics BatchNorm uses."""
        return cast(Literal["image", "stored"], self.config.batchnorm)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """The encodings (N, 64, H, W) of images (N, 1, H, W) in [0, 1], H and W even."""
        return cast(Tensor, self.network.encoder(images.to(self.device), self.batchnorm))

    @torch.inference_mode()
    def decode(self, encodings: Tensor) -> Tensor:
        """The images (N, 1, H, W), clamped to [0, 1], of encodings (N, 64, H, W)."""
        return cast(Tensor, self.network.decoder(encodings)).clamp(0, 1)

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse pairs: two (N, 1, H, W) in [0, 1] to one, on the Fuser's device.

        An odd height or width is padded by its last row or column and cropped again. Raises InputError if the shapes
        differ or a pixel is not finite.
        """
        return self.fuse_each(a, b, [self.strategy])[self.strategy]

    @torch.inference_mode()
    def fuse_each(self, a: Tensor, b: Tensor, strategies: Sequence[str]) -> dict[str, Tensor]:
        """Fuse pairs by several strategies, encoding them once; the conditions are those of `fuse`."""
        check_pair(a, b)
        height, width = a.shape[-2:]
        padding = (0, width % 2, 0, height % 2)
        encodings = [self.encode(F.pad(image.float(), padding, mode="replicate")) for image in (a, b)]
        return {name: self.decode(STRATEGIES[name](*encodings))[..., :height, :width] for name in strategies}


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raise InputError unless both are finite image batches (N, 1, H, W) of one shape."""
    if a.shape != b.shape:
        raise InputError(f"the two images differ in size: {_size(a)} and {_size(b)}; resample one to the other's size")
    if a.ndim != 4 or a.shape[1] != 1 or 0 in a.shape:
        raise InputError(f"images must have shape (N, 1, H, W), not {tuple(a.shape)}")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise InputError("an image has pixels that are not finite; replace them before fusing")


def _size(image: Tensor) -> str:
    return "x".join(str(n) for n in reversed(image.shape[-2:]))


def weights_sha256(folder: Path) -> str:
    """The SHA-256 of a model folder's weights file, its identity in the registry."""
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
