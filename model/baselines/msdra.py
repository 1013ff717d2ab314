"""MSDRA, the multi-scale double residual attention network: a baseline trained by this project's own loop.

Source: Li, Peng, Fu, Wang, Huang, Chao, "A multiscale double-branch residual attention network for
anatomical-functional medical image fusion", Computers in Biology and Medicine 141:105005, 2022.
"""

from torch import Tensor, nn

from model.network import CHANNELS, MOMENTUM, Autoencoder, Statistics, normalise, plain_decoder

BLOCKS = 3
STEPS = 3


class Block(nn.Module):
    """One double-branch residual attention block, (N, 64, H, W) to the same.

    One 5x5, one 3x3 and one 1x1 convolution and one BatchNorm serve the whole block. With r = ReLU(BN(.)):
    a = r(c5(x)), b = r(c3(a)), c = r(c1(b)) is the multi-scale branch; d = r(c3(c3(d)) + d), three times from x, the
    residual one; out = BN(ReLU(x) (a + b + c + d) + x).
    """

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2)
        self.middle = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.point = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.norm = nn.BatchNorm2d(CHANNELS, momentum=MOMENTUM)

    def forward(self, x: Tensor, statistics: Statistics) -> Tensor:
        """The block's output; `statistics` says whose mean and variance BatchNorm uses."""
        a = self._rectified(self.wide(x), statistics)
        b = self._rectified(self.middle(a), statistics)
        c = self._rectified(self.point(b), statistics)
        d = x
        for _ in range(STEPS):
            d = self._rectified(self.middle(self.middle(d)) + d, statistics)
        return normalise(self.norm, x.relu() * (a + b + c + d) + x, statistics)

    def _rectified(self, x: Tensor, statistics: Statistics) -> Tensor:
        return normalise(self.norm, x, statistics).relu()


class Encoder(nn.Module):
    """One image (N, 1, H, W) to its encoding (N, 64, H, W): a 1x1 convolution and the blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, CHANNELS, 1)
        self.blocks = nn.ModuleList([Block() for _ in range(blocks)])

    def forward(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Encode images; `statistics` says whose mean and variance BatchNorm uses."""
        x = self.lift(x)
        for block in self.blocks:
            x = block(x, statistics)
        return x


class MSDRA(Autoencoder):
    """Encoder and decoder of MSDRA (486,849 parameters); fused by FL1N, trained with L2.

    The paper stacks three blocks, which is the default; the code its authors published reaches only one of them
    (`blocks=1`).
    """

    strategy = "fl1n"

    def __init__(self, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.encoder = Encoder(blocks)
        self.decoder = plain_decoder()
