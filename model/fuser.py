"""A saved network and a fusion strategy, ready to fuse images: what consumers and the registry use."""

import hashlib
import json
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from model.errors import InputError, unknown_choice
from model.fast import SMALLEST, FastDecoder, FastEncoder
from model.network import CHANNELS, Autoencoder, FusionNetwork
from model.networks import NETWORKS, check_width, make_network
from model.strategies import DEFAULT_STRATEGY, SHARES, STRATEGIES

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"
SHIPPED_MODEL = Path(__file__).parent / "weights" / "dilran-subject"
BATCHNORM = ("image", "stored")
PRECISIONS = ("float32", "bfloat16")
_KEPT = 2**24  # floats, 64 MiB: enough for pairs up to 295x295


@dataclass(frozen=True)
class FuserConfig:
    """How a saved network fuses: its strategy, and whose statistics BatchNorm uses ("image" or "stored").

    `levels`, of a network trained on normalised images, are the values in [0, 1] of each modality that become 0 and 1
    before fusing: ((low, high) of the first image, (low, high) of the second). `width` counts the channels of the
    network's encodings.
    """

    strategy: str = DEFAULT_STRATEGY
    batchnorm: str = "image"
    network: str = "dilran"
    levels: tuple[tuple[float, float], tuple[float, float]] | None = None
    width: int = CHANNELS

    def __post_init__(self) -> None:
        if self.levels is not None:
            object.__setattr__(self, "levels", _checked_levels(self.levels))
        for value, known, what in (
            (self.strategy, tuple(STRATEGIES), "fusion strategy"),
            (self.batchnorm, BATCHNORM, "BatchNorm statistics"),
            (self.network, tuple(NETWORKS), "network"),
        ):
            if value not in known:
                raise unknown_choice(what, value, known)
        check_width(self.network, self.width)


class Fuser:
    """Fuses pairs of grey images with one network and one strategy."""

    def __init__(
        self,
        network: Autoencoder,
        config: FuserConfig | None = None,
        device: str = "cpu",
        precision: str = "float32",
        fast: bool = True,
    ) -> None:
        if precision not in PRECISIONS:
            raise unknown_choice("precision", precision, PRECISIONS)
        # Who trains a network need not say its width again.
        self.config = replace(config or FuserConfig(), width=network.width)
        self.device = _device(device)
        self.precision = precision
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._fast: tuple[FastEncoder, FastDecoder] | None = None
        self._scratch = threading.local()
        if fast and isinstance(network, FusionNetwork) and self.device.type == "cpu" and precision == "float32":
            self._fast = FastEncoder(network.encoder), FastDecoder(network.decoder)

    @classmethod
    def load(
        cls,
        folder: Path,
        strategy: str | None = None,
        batchnorm: str | None = None,
        device: str = "cpu",
        precision: str = "float32",
        fast: bool = True,
    ) -> "Fuser":
        """Load a model folder (`weights.safetensors`, `config.json`), optionally with another strategy or statistics.

        Without `fast` the network is computed layer by layer, whose rounding leaves equal pixels equal.
        Raises InputError if the folder may not be read, or what it holds does not make a network of this architecture.
        """
        try:
            saved = json.loads((folder / CONFIG_FILE).read_text())
            weights = load((folder / WEIGHTS_FILE).read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{folder} holds no model: {Path(error.filename).name} is missing; name a folder with {CONFIG_FILE} and"
                f" {WEIGHTS_FILE}"
            ) from None
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from None
        except (ValueError, SafetensorError) as error:
            raise InputError(f"{folder} holds a damaged model ({error}); fetch it again") from None
        if not isinstance(saved, dict) or not set(saved) <= set(FuserConfig.__dataclass_fields__):
            raise InputError(f"{folder / CONFIG_FILE} is not the configuration of this program's model; fetch it again")
        changes = {"strategy": strategy, "batchnorm": batchnorm}
        config = FuserConfig(**saved | {k: v for k, v in changes.items() if v is not None})
        # Without memory of its own: the tensors read become the network's, in float32 whatever the file has.
        with torch.device("meta"):
            network = make_network(config.network, config.width)
        weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        try:
            network.load_state_dict(weights, assign=True)
        except RuntimeError:
            raise InputError(
                f"{folder / WEIGHTS_FILE} holds the weights of another architecture than {config.network} of width"
                f" {config.width}; train or fetch a model of this one"
            ) from None
        return cls(network, config, device, precision, fast)

    def save(self, folder: Path) -> None:
        """Write the model folder; the same network and configuration give the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous().cpu() for name, tensor in self.network.state_dict().items()}
        (folder / WEIGHTS_FILE).write_bytes(save(state))
        config = {name: value for name, value in asdict(self.config).items() if value is not None}
        if self.config.width == CHANNELS:
            del config["width"]  # as in folders from before there was a choice
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")

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
        """The encodings (N, C, H, W) of images (N, 1, H, W) in [0, 1], H and W divisible by the network's multiple."""
        return self._encode(images, None)

    def _encode(self, images: Tensor, scratch: Tensor | None) -> Tensor:
        images = images.to(self.device)
        if self._fast and min(images.shape[-2:]) >= SMALLEST:
            return self._fast[0](images, self.batchnorm, scratch)
        with self._autocast():
            return cast(Tensor, self.network.encoder(images, self.batchnorm)).float()

    @torch.inference_mode()
    def decode(self, encodings: Tensor) -> Tensor:
        """The images (N, 1, H, W), clamped to [0, 1], of encodings (N, C, H, W)."""
        if self._fast and min(encodings.shape[-2:]) >= SMALLEST:
            return self._fast[1](encodings).clamp_(0, 1)
        with self._autocast():
            return cast(Tensor, self.network.decoder(encodings)).float().clamp(0, 1)

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse pairs: two (N, 1, H, W) in [0, 1] to one, on the Fuser's device.

        Any number of pairs: they are taken a few at a time, so that memory does not grow with N beyond the images. A
        height or width that the network cannot divide is padded by its last row or column and cropped again. Raises
        InputError if the shapes differ or a pixel is not finite; pixels on an accelerator are not looked at, since that
        would wait for it. Where the configuration has `levels`, the images are normalised by them first.
        """
        return self.fuse_each(a, b, [self.strategy])[self.strategy]

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse pairs, as `fuse` does: a Fuser stands wherever a fusion method is called."""
        return self.fuse(a, b)

    @torch.inference_mode()
    def fuse_each(self, a: Tensor, b: Tensor, strategies: Sequence[str]) -> dict[str, Tensor]:
        """Fuse pairs by several strategies, encoding them once; the conditions are those of `fuse`."""
        height, width = a.shape[-2:]
        fused: dict[str, list[Tensor]] = {name: [] for name in strategies}
        for encoded in self._encoded(a, b):
            for name, done in fused.items():
                done.append(self.decode(STRATEGIES[name](*encoded))[..., :height, :width])
        return {name: torch.cat(images) for name, images in fused.items()}

    @torch.inference_mode()
    def share_each(self, a: Tensor, b: Tensor, strategies: Sequence[str]) -> dict[str, Tensor]:
        """The share of `a` that strategies decide on, (N, 1, H, W) in [0, 1]; those that have none are left out.

        The encodings are mixed by it, and the decoder is linear: the image is mixed alike but for the reach of its
        convolutions. The conditions are those of `fuse`.
        """
        shares: dict[str, list[Tensor]] = {name: [] for name in strategies if name in SHARES}
        for encoded in self._encoded(a, b) if shares else ():
            for name, done in shares.items():
                share = SHARES[name](*encoded).expand(-1, -1, *encoded[2].shape[-2:])
                done.append(share[..., : a.shape[-2], : a.shape[-1]])
        return {name: torch.cat(parts) for name, parts in shares.items()}

    def _encoded(self, a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Encodings and images of both sources, as strategies take them, padded, a few pairs at a time."""
        check_pair(a, b)
        if self.config.levels is not None:
            (low, high), (lowest, highest) = self.config.levels
            a, b = ((a - low) / (high - low)).clamp(0, 1), ((b - lowest) / (highest - lowest)).clamp(0, 1)
        multiple = self.network.multiple
        padding = (0, -a.shape[-1] % multiple, 0, -a.shape[-2] % multiple)
        for pair in zip(torch.split(a, self._chunk), torch.split(b, self._chunk), strict=True):
            images = F.pad(torch.cat(pair).float(), padding, mode="replicate")
            encodings, images = self._encode(images, self._scratch_for(images)), images.to(self.device)
            yield (*encodings.chunk(2), *images.chunk(2))  # type: ignore[misc]

    @property
    def _chunk(self) -> int:
        """How many pairs at a time: as many as keep an accelerator busy; on a CPU one, which its cache can hold."""
        return 1 if self.device.type == "cpu" else 16

    def _scratch_for(self, images: Tensor) -> Tensor | None:
        """Memory for the encodings of these images, kept from pair to pair, one a thread; none for large ones."""
        shape = (len(images) + 1, *images.shape[-2:], self.network.width)
        if not self._fast or math.prod(shape) > _KEPT:
            return None
        kept = getattr(self._scratch, "memory", None)
        if kept is None or kept.shape != shape:
            kept = self._scratch.memory = torch.empty(shape)
        return kept

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def _checked_levels(levels: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two ranges within [0, 1], as tuples; InputError for anything else."""
    try:
        (a, b), (c, d) = levels
        if 0 <= a < b <= 1 and 0 <= c < d <= 1:
            return (float(a), float(b)), (float(c), float(d))
    except (TypeError, ValueError):
        pass
    raise InputError(f"levels are {levels!r}; give two ranges within 0 and 1, such as [[0, 0.9], [0.02, 1]]")


def _device(name: str) -> torch.device:
    """The device of that name; InputError where torch does not know it or this machine lacks it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        # Of a name that torch does not know it lists the twenty that it does, most of them for nobody here.
        why = "" if reason.startswith("Expected one of") else f" ({reason})"
        raise InputError(
            f"device {name!r} cannot be used here{why}; choose cpu, or cuda where there is a GPU"
        ) from None
    return device


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raise InputError unless both are image batches (N, 1, H, W) of one shape, and finite where a CPU holds them."""
    if a.shape != b.shape:
        raise InputError(f"the two images differ in size: {_size(a)} and {_size(b)}; resample one to the other's size")
    if a.ndim != 4 or a.shape[1] != 1 or 0 in a.shape:
        raise InputError(f"images must have shape (N, 1, H, W), not {tuple(a.shape)}")
    if any(image.device.type == "cpu" and not torch.isfinite(image).all() for image in (a, b)):
        raise InputError("an image has pixels that are not finite; replace them before fusing")


def _size(image: Tensor) -> str:
    return "x".join(str(n) for n in reversed(image.shape[-2:]))


def weights_sha256(folder: Path) -> str:
    """The SHA-256 of a model folder's weights file, its identity in the registry."""
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
