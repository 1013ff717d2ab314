"""MSRPAN, the multi-scale residual pyramid attention network: a baseline trained by this project's own loop.

Source: Fu, Li, Du, Huang, "A multiscale residual pyramid attention network for medical image fusion", Biomedical Signal
Processing and Control 66:102488, 2021. The weights its authors shipped are collapsed, so none of theirs are used.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from model.network import CHANNELS, MOMENTUM, Autoencoder, Statistics, attention, normalise

LEVELS = 3
BLOCKS = 3


class Encoder(nn.Module):
    """One image (N, 1, H, W) to its encoding (N, 64, H, W), H and W divisible by 16.

    A 1x1 convolution lifts the image to t; the block B, one convolution and one BatchNorm for all its scales, is
    applied three times to t; with a = P(x) t + x before that, the encoding is P(a) B(B(B(t))) + a.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, CHANNELS, 1)
        self.residual = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS, momentum=MOMENTUM)

    def forward(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Encode images; `statistics` says whose mean and variance BatchNorm uses."""
        t: Tensor = self.lift(x)
        shallow = attention(x) * t + x
        for _ in range(BLOCKS):
            t = normalise(self.norm, attention(t) * self._pyramid(t) + t, statistics)
        return attention(shallow) * t + shallow

    def _pyramid(self, x: Tensor) -> Tensor:
        """The residual attention of three scales, coarse added to fine; (N, 64, H, W) to the same."""
        scales = []
        for _ in range(LEVELS):
            x = F.avg_pool2d(x, 2)
            once = self.residual(x)
            twice = self.residual(once)
            scales.append(attention(x) * (once + twice + self.residual(twice)) + x)
        total: Tensor = scales.pop()
        while scales:
            total = scales.pop() + _up(total)
        return _up(total)


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class MSRPAN(Autoencoder):
    """Encoder and decoder of MSRPAN (92,609 parameters); fused by FER."""

    multiple = 16
    strategy = "fer"

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, 64, 3, padding=1), nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 1, 1)
        )
