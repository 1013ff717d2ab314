"""The attention-based multi-scale network: encoder, decoder, and what every autoencoder of this project shares.

Source: Zhou, Xu, Zhang, "An Attention-based Multi-Scale Feature Learning Network for Multimodal Medical Image Fusion"
(arXiv 2212.04661, 2022).
"""

from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model.composed import LinearChain
from model.strategies import DEFAULT_STRATEGY

Statistics = Literal["batch", "image", "stored"]

CHANNELS = 64
DILATIONS = (1, 3, 5)
MOMENTUM = 0.1


def attention(x: Tensor) -> Tensor:
    """The pixel attention P(x) = ReLU(up2(avg2(x))); (N, C, H, W) to the same shape, H and W even."""
    return F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="nearest").relu()


def attend(x: Tensor, y: Tensor) -> Tensor:
    """The attended residual x + P(x) y, all (N, C, H, W), H and W even."""
    result: Tensor = _Attend.apply(x, y)  # type: ignore[no-untyped-call]
    return result


class _Attend(torch.autograd.Function):
    """x + P(x) y that never builds P(x) at full size, nor keeps x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        p = F.avg_pool2d(x, 2).relu_()
        ctx.save_for_backward(p, y)
        return torch.addcmul(_blocks(x), p[:, :, :, None, :, None], _blocks(y)).flatten(4).flatten(2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        p, y = ctx.saved_tensors
        product = slope * y
        # The pooled map's slope, a quarter of it for each pixel of a block: the mean of the four products.
        pooled = F.avg_pool2d(product, 2).masked_fill_(p <= 0, 0)[:, :, :, None, :, None]
        blocks, out = _blocks(slope), _blocks(product)
        torch.add(blocks, pooled, out=out)
        return product, (blocks * p[:, :, :, None, :, None]).flatten(4).flatten(2, 3)


def _blocks(x: Tensor) -> Tensor:
    """The view (N, C, H / 2, 2, W / 2, 2) of (N, C, H, W)."""
    return torch.unflatten(torch.unflatten(x, 3, (-1, 2)), 2, (-1, 2))


def normalise(norm: nn.BatchNorm2d, x: Tensor, statistics: Statistics) -> Tensor:
    """BatchNorm of features (N, C, H, W) by the mean and variance that `statistics` names.

    "batch": those of the batch; "image": those of each image alone, as in the published figures; "stored": the running
    ones, which follow the batch's or the images' mean while the module is in training mode.
    """
    if statistics == "image" and len(x) > 1:
        return _normalise_each(norm, x)
    # One image is a batch of its own; there torch's instance_norm gives wrong gradients in channels-last layout.
    mean, variance = (norm.running_mean, norm.running_var) if norm.training or statistics == "stored" else (None, None)
    return F.batch_norm(x, mean, variance, norm.weight, norm.bias, statistics != "stored", MOMENTUM, norm.eps)


def _normalise_each(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """`normalise` by each image's own mean and variance."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    if x.device.type != "cpu":
        kept_mean, kept_variance = (mean, variance) if norm.training else (None, None)
        return F.instance_norm(x, kept_mean, kept_variance, norm.weight, norm.bias, True, MOMENTUM, norm.eps)
    # On a CPU one by one: instance_norm would copy channels-last features to another layout and leave them there.
    means, variances = mean.new_zeros(len(x), len(mean)), variance.new_zeros(len(x), len(variance))
    images = torch.split(x, 1)
    found = [
        F.batch_norm(image, m, v, norm.weight, norm.bias, True, 1.0, norm.eps)
        for image, m, v in zip(images, means, variances, strict=True)
    ]
    if norm.training:
        with torch.no_grad():
            mean.lerp_(means.mean(0), MOMENTUM)
            variance.lerp_(variances.mean(0), MOMENTUM)
    return torch.cat(found)


class Autoencoder(nn.Module):
    """What training and fusion ask of a network: an encoder for single images and a decoder of (fused) encodings.

    `multiple` divides the height and width that it takes; `strategy` is how its encodings are fused unless another is
    asked for; `width` counts the channels of its encodings.
    """

    width: int = CHANNELS
    multiple: ClassVar[int] = 1
    strategy: ClassVar[str] = "average"
    encoder: nn.Module
    decoder: nn.Module

    def forward(self, x: Tensor, statistics: Statistics = "batch") -> Tensor:
        """Reconstruct images (N, 1, H, W) in [0, 1]; the output is not clamped."""
        return cast(Tensor, self.decoder(self.encoder(x, statistics)))


class Encoder(nn.Module):
    """The feature extractor: one image (N, 1, H, W) to its encoding (N, C, H, W); H and W even, C is the `width`, 64.

    Shallow features s, three dilated convolutions reduced to C channels, and DILRAN, the dilated residual attention
    block, whose one convolution is applied once, twice and three times. One BatchNorm serves both normalisations.
    """

    def __init__(self, width: int = CHANNELS) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, width, 1)
        self.dilated = nn.ModuleList([nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in DILATIONS])
        self.reduce = nn.Conv2d(width * len(DILATIONS), width, 1)
        self.norm = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.residual = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Encode images (N, 1, H, W); `statistics` says whose mean and variance BatchNorm uses, see `normalise`."""
        shallow, scales = self._shallow_and_scales(x)
        m = normalise(self.norm, scales, statistics)
        once = self.residual(m)
        twice = self.residual(once)
        k = once + twice + self.residual(twice)
        d = normalise(self.norm, attend(m, k), statistics)
        return attend(shallow, d)

    def _shallow_and_scales(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shallow features and reduced multi-scale features, both (N, C, H, W).

        Shallow channel i is x + w_i (p x) + b_i p with p = P(x), so all that follows up to the BatchNorm is linear in
        the three maps (x, p x, p). The dilated convolutions and the 1x1 reduction collapse, without approximation, to
        three convolutions of those maps: 21 times fewer multiplications.
        """
        p = attention(x)
        # Channels last: CPU convolutions are then half as fast again, and what follows inherits the layout.
        maps = torch.cat((x, p * x, p), dim=1).contiguous(memory_format=torch.channels_last)
        shallow = F.conv2d(maps, self._mixing()[:, :, None, None])
        kernels, bias = self.collapsed()
        scales = bias[None, :, None, None]
        for dilation, kernel in zip(DILATIONS, kernels, strict=True):
            scales = scales + F.conv2d(maps, kernel, padding=dilation, dilation=dilation)
        return shallow, scales

    def collapsed(self) -> tuple[list[Tensor], Tensor]:
        """The kernels (C, 3, 3, 3), one a dilation, and the bias (C,) that take the three maps to the scales."""
        bias, kernels = _bias(self.reduce), []
        reductions = self.reduce.weight[:, :, 0, 0].chunk(len(DILATIONS), dim=1)
        for convolution, reduction in zip(self.dilated, reductions, strict=True):
            kernel = torch.einsum("or,rikl,im->omkl", reduction, convolution.weight, self._mixing())
            kernels.append(kernel.contiguous(memory_format=torch.channels_last))
            bias = bias + reduction @ _bias(convolution)
        return kernels, bias

    def _mixing(self) -> Tensor:
        """The shares (C, 3) of the three maps in the shallow features."""
        w, b = self.lift.weight.flatten(), _bias(self.lift)
        return torch.stack((torch.ones_like(b), w, b), dim=1)


def _bias(convolution: nn.Module) -> Tensor:
    return cast(Tensor, convolution.bias)


class FusionNetwork(Autoencoder):
    """Encoder and decoder (216,001 parameters at width 64): trained on single images, fused between the two.

    It was published with SFNN; the strategy used unless told otherwise keeps more of both images.
    """

    multiple = 2
    strategy = DEFAULT_STRATEGY
    encoder: Encoder
    decoder: nn.Sequential

    def __init__(self, width: int = CHANNELS) -> None:
        super().__init__()
        self.width = width
        self.encoder = Encoder(width)
        self.decoder = plain_decoder(width)


def plain_decoder(width: int = CHANNELS) -> LinearChain:
    """Three 3x3 convolutions, C -> C -> C/2 -> 1 channels, no activation between: (N, C, H, W) to (N, 1, H, W)."""
    return LinearChain(
        nn.Conv2d(width, width, 3, padding=1),
        nn.Conv2d(width, width // 2, 3, padding=1),
        nn.Conv2d(width // 2, 1, 3, padding=1),
    )
