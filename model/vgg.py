"""Feature stacks: pretrained VGG layers with checked weights, or a fixed random stack.

The perceptual loss compares images by them, and Zero-learning fuses by them.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.errors import InputError, MissingWeights
from model.winograd import FixedKernel

# Name -> (address in the model zoo, first hex digits of the file's SHA-256, which are also in its name).
MODEL_ZOO = {
    "vgg16-bn": ("https://download.pytorch.org/models/vgg16_bn-6c64b313.pth", "6c64b313"),
    "vgg19": ("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "dcbb9e9d"),
}
STACKS = ("random", *MODEL_ZOO)

# Layers by torchvision's indices: a convolution's number and width, "norm", "relu", "pool", or "tap".
VGG19 = ((0, 64), "relu", (2, 64), "relu", "tap", "pool", (5, 128), "relu", (7, 128), "relu", "tap", "pool", (10, 256),
          "relu", "tap")  # fmt: skip
_SALIENCY = ((0, 64), "relu", "tap", (2, 64), "relu", "tap", "pool", (5, 128), "relu", "tap", (7, 128), "relu", "tap")
SALIENCY_TAPS = ("relu1_1", "relu1_2", "relu2_1", "relu2_2")
VGG16_BN = ((0, 64), "norm", "relu", (3, 64), "norm", "relu", "tap", "pool", (7, 128), "norm", "relu", (10, 128),
              "norm", "relu", "tap", "pool", (14, 256), "norm", "relu", (17, 256), "norm", "relu", (20, 256), "norm",
              "tap")  # fmt: skip
_RANDOM = ((0, 16), "relu", "tap", "pool", (1, 32), "relu", "tap", "pool", (2, 64), "relu", "tap")
_RANDOM_SEED = 3407


class FeatureStack(nn.Module):
    """A frozen stack of convolutions that gives the features at its taps.

    Grey input (N, 1, H, W) in [0, 1] is repeated to three channels, without ImageNet normalisation, as the published
    experiment did.
    """

    def __init__(self, name: str, layout: tuple[str | tuple[int, int], ...]) -> None:
        super().__init__()
        self.name = name
        self.features = nn.ModuleDict()
        self.order: list[str] = []
        self._ready: tuple[object, dict[str, _Convolution]] | None = None
        channels, number = 3, 0
        for layer in layout:
            if isinstance(layer, tuple):
                number, width = layer
                self._append(str(number), nn.Conv2d(channels, width, 3, padding=1))
                channels = width
            elif layer == "norm":
                self._append(str(number + 1), nn.BatchNorm2d(channels))
            else:
                self.order.append(layer)
        self.eval().requires_grad_(False)

    def _append(self, name: str, module: nn.Module) -> None:
        self.features[name] = module
        self.order.append(name)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> "FeatureStack":
        """Stay in evaluation mode whatever the caller asks: the features never adapt."""
        return super().train(False)

    def forward(self, image: Tensor, fast: bool = False) -> list[Tensor]:
        """The features at each tap, finest first; `fast` rounds otherwise where that saves time, see `FixedKernel`."""
        x, taps, convolutions = image, [], self._convolutions()
        for place, step in enumerate(self.order):
            if step == "tap":
                taps.append(x)
            elif step == "relu":
                # In place where nothing else holds the features.
                x = x.relu() if self.order[place - 1] == "tap" else x.relu_()
            elif step == "pool":
                x = nn.functional.max_pool2d(x, 2)
            elif step in convolutions:
                x = _Frozen.apply(x, convolutions[step], fast)  # type: ignore[no-untyped-call]
        return taps

    def _convolutions(self) -> "dict[str, _Convolution]":
        """The convolutions by name, with what is frozen folded in.

        The first takes the grey image itself, by the sum over its three channels; a normalisation by stored statistics
        is a scale and a shift of the convolution before it. They are prepared anew when a parameter has changed.
        """
        state = tuple(
            (t.device, t.data_ptr(), 0 if t.is_inference() else t._version) for t in self.features.state_dict().values()
        )
        if self._ready is None or self._ready[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._ready = state, self._folded()
        return self._ready[1]

    def _folded(self) -> "dict[str, _Convolution]":
        convolutions, first = {}, True
        for name, convolution in self.features.items():
            if not isinstance(convolution, nn.Conv2d):
                continue
            weight, bias = convolution.weight.double(), _bias(convolution).double()
            if first:
                weight, first = weight.sum(1, keepdim=True), False
            norm = dict(self.features.items()).get(str(int(name) + 1))
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
                weight = weight * scale[:, None, None, None]
                bias = (bias - norm.running_mean.double()) * scale + norm.bias.double()
            backwards = weight.flip(-1, -2).transpose(0, 1)
            like = convolution.weight
            kernel, back = (FixedKernel(_channels_last(taps.to(like))) for taps in (weight, backwards))
            convolutions[name] = _Convolution(kernel, back, bias.to(like))
        return convolutions


def _channels_last(weight: Tensor) -> Tensor:
    """The weight with strides that say channels last even of a single channel, so that the features follow them."""
    return weight.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


class _Convolution(NamedTuple):
    """A convolution of a frozen stack: its kernel, that of its input's gradient, and its bias."""

    kernel: FixedKernel
    backwards: FixedKernel
    bias: Tensor


class _Frozen(torch.autograd.Function):
    """A 3x3 convolution whose weights need no gradient: the input's is a convolution, too, and needs no activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, convolution: _Convolution, fast: bool) -> Tensor:
        ctx.convolution, ctx.fast = convolution, fast
        return convolution.kernel(x, convolution.bias, fast)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.convolution.backwards(slope, fast=ctx.fast), None, None


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias


def feature_stack(source: str) -> FeatureStack:
    """The stack named "random", "vgg16-bn" or "vgg19", or the one whose torchvision weights lie in a safetensors file.

    The VGG weights come from the model zoo once, the download verified by the zoo's checksum and kept as safetensors;
    the zoo's own file is read with torch's loader for weights alone, which runs no code. Raises InputError if they
    cannot be had or do not fit; nothing else is ever used in their place.
    """
    if source == "random":
        return _random_stack()
    if source in MODEL_ZOO:
        advice = "pass --perceptual with the path of a VGG safetensors file, or --perceptual random"
        return _perceptual_stack(_fetch(source, advice), source)
    path = Path(source)
    if not path.is_file():
        raise InputError(
            f"no feature stack {source!r}: give {', '.join(STACKS)}, or the path of a VGG safetensors file"
        )
    return _perceptual_stack(path, path.stem)


def saliency_stack(path: Path | None, depth: int = len(SALIENCY_TAPS)) -> FeatureStack:
    """VGG19 with its first `depth` taps of SALIENCY_TAPS: from a safetensors file under torchvision's names, or, where
    none is given, from the model zoo and its cache like `feature_stack`'s.

    Raises MissingWeights if there is no such file or the zoo cannot be reached, InputError if the file does not fit.
    """
    if path is None:
        path = _fetch("vgg19", "give the path of a VGG19 safetensors file")
    elif not path.is_file():
        raise MissingWeights(f"no VGG19 weights at {path}; give the path of a VGG19 safetensors file")
    end = [place for place, layer in enumerate(_SALIENCY) if layer == "tap"][depth - 1]
    return _fill(FeatureStack("vgg19", _SALIENCY[: end + 1]), _read(path), path)


def _random_stack() -> FeatureStack:
    stack = FeatureStack("random", _RANDOM)
    generator = torch.Generator().manual_seed(_RANDOM_SEED)
    for convolution in stack.features.values():
        assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(convolution.bias)
    return stack


def _perceptual_stack(path: Path, name: str) -> FeatureStack:
    weights = _read(path)
    layout = VGG16_BN if "features.1.running_mean" in weights else VGG19
    return _fill(FeatureStack(name, layout), weights, path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no readable safetensors file ({error}); fetch it again") from None
    return weights


def _fill(stack: FeatureStack, weights: dict[str, Tensor], path: Path) -> FeatureStack:
    wanted = stack.state_dict()
    absent = [key for key in wanted if key not in weights or weights[key].shape != wanted[key].shape]
    if absent:
        raise InputError(f"{path} holds no VGG16 or VGG19 features: {absent[0]} is missing or of another shape")
    stack.load_state_dict({key: weights[key] for key in wanted})
    return stack


def _fetch(name: str, advice: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "atlas-fusion"
    target = cache / f"{name}.safetensors"
    if target.is_file():
        return target
    address, checksum = MODEL_ZOO[name]
    download, partial = cache / address.rpartition("/")[2], cache / f".{name}.{os.getpid()}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(download), hash_prefix=checksum, progress=False)
        weights = torch.load(download, map_location="cpu", weights_only=True)
        save_file({key: value for key, value in weights.items() if key.startswith("features.")}, partial)
        partial.replace(target)
    except (OSError, RuntimeError) as error:
        raise MissingWeights(
            f"cannot fetch the {name} weights from {address} ({error}); {advice}, or put one at {target}"
        ) from None
    finally:
        download.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    return target
