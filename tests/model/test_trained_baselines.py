"""MSRPAN and MSDRA compute what their descriptions say; each formula is written out again here."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.baselines.msdra import MSDRA
from model.baselines.msrpan import MSRPAN


def attention(x: Tensor) -> Tensor:
    pooled = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    return pooled.repeat_interleave(2, 2).repeat_interleave(2, 3).clamp_min(0)


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def image_norm(norm: torch.nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


@torch.inference_mode()
def test_msrpan_encodes_by_its_formula():
    torch.manual_seed(0)
    encoder = MSRPAN().eval().encoder
    x = torch.rand(2, 1, 32, 48)

    def block(t: Tensor) -> Tensor:
        levels = [F.avg_pool2d(t, 2), F.avg_pool2d(t, 4), F.avg_pool2d(t, 8)]
        c = encoder.residual
        o0, o1, o2 = (attention(p) * (c(p) + c(c(p)) + c(c(c(p)))) + p for p in levels)
        s = doubled(o0 + doubled(o1 + doubled(o2)))
        return image_norm(encoder.norm, attention(t) * s + t)

    t = encoder.lift(x)
    a = attention(x) * t + x
    expected = attention(a) * block(block(block(t))) + a
    assert torch.allclose(encoder(x, "image"), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_msdra_encodes_by_its_formula():
    torch.manual_seed(0)
    encoder = MSDRA(blocks=1).eval().encoder
    block, x = encoder.blocks[0], torch.rand(2, 1, 15, 18)

    def r(features: Tensor) -> Tensor:
        return image_norm(block.norm, features).clamp_min(0)

    t = encoder.lift(x)
    a = r(block.wide(t))
    b = r(block.middle(a))
    c = r(block.point(b))
    d = t
    for _ in range(3):
        d = r(block.middle(block.middle(d)) + d)
    expected = image_norm(block.norm, t.clamp_min(0) * (a + b + c + d) + t)
    assert torch.allclose(encoder(x, "image"), expected, rtol=1e-4, atol=1e-4)


def test_msdra_stacks_three_blocks_unless_told_otherwise():
    assert len(MSDRA().encoder.blocks) == 3
    assert sum(p.numel() for p in MSRPAN().parameters()) == 92_609
