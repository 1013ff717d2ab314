"""On a GPU the network fuses and trains as on a CPU, and nothing inside waits for the device."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from model.fuser import SHIPPED_MODEL, Fuser
from model.losses import TERMS
from model.metrics import measure
from model.nuclear import softmax_nuclear_norm
from model.pairs import PackedPairs
from model.strategies import STRATEGIES
from model.training import train
from model.training_config import TrainingConfig
from model.vgg import feature_stack

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """Two pairs of heads drawn from ellipses: a bright ring around grey, and the reverse."""
    y, x = np.mgrid[-1:1:128j, -1:1:96j]
    inside = [(x / 0.8) ** 2 + (y / side) ** 2 < 1 for side in (0.9, 0.75)]
    shade = np.stack([np.sin(9 * x + k) * np.cos(7 * y) for k in (0, 1)]) * 0.2 + 0.5
    ct = np.where(inside[1], 0.4, inside[0] * 0.95)[None].repeat(2, 0)
    mr = np.where(inside[1], shade, inside[0] * 0.1)
    return tuple(torch.from_numpy(image.astype(np.float32))[:, None] for image in (ct, mr))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fused_image_is_the_cpus(pair: tuple[Tensor, Tensor], strategy: str, precision: str):
    wanted = Fuser.load(SHIPPED_MODEL, strategy).fuse(*pair)
    fused = Fuser.load(SHIPPED_MODEL, strategy, device="cuda", precision=precision).fuse(*pair)
    assert fused.is_cuda
    deviation = (fused.cpu() - wanted).abs()
    # Tensor cores round the operands of convolutions to 10 (TF32) or 7 bits.
    mean, largest = {"float32": (1e-3, 0.02), "bfloat16": (5e-3, 0.1)}[precision]
    assert float(deviation.mean()) < mean
    assert float(deviation.max()) < largest


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "local-nuclear"])
def test_fusing_never_waits_for_the_device(pair: tuple[Tensor, Tensor], strategy: str):
    fuser, images = Fuser.load(SHIPPED_MODEL, strategy, device="cuda"), [image.cuda() for image in pair]
    fuser.fuse(*images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        fuser.fuse(*images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nuclear_norms_agree_to_a_thousandth(pair: tuple[Tensor, Tensor]):
    encodings = Fuser.load(SHIPPED_MODEL).encode(torch.cat(pair))
    torch.testing.assert_close(
        softmax_nuclear_norm(encodings.cuda()).cpu(), softmax_nuclear_norm(encodings), rtol=1e-3, atol=0
    )


def test_images_on_the_gpu_are_measured_there(pair: tuple[Tensor, Tensor]):
    a, b = (image.cuda() for image in pair)
    value = measure(a, b, (a + b) / 2, ["qabf"])["qabf"]
    assert isinstance(value, Tensor) and value.is_cuda


@pytest.mark.parametrize("statistics", ["batch", "image"])
def test_training_takes_the_gpu_and_the_cpus_first_steps(packed, statistics: str):
    records: dict[str, list] = {}
    for device in ("cpu", "cuda"):
        config = TrainingConfig(2, 4, 32, 1e-3, 1, statistics=statistics, device=device)
        splits = [PackedPairs.open(packed, split) for split in ("train", "validation")]
        trained = train(config, *splits, feature_stack("random"))
        network, records[device] = trained.network, trained.curves
        assert next(network.parameters()).device.type == device
    for ours, theirs in zip(*records.values(), strict=True):
        for term in TERMS:
            assert theirs["train"][term] == pytest.approx(ours["train"][term], rel=0.02)
    assert json.dumps(records["cuda"])
