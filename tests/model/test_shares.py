"""The weight that a method gives the first source is what its fusion is made by."""

import pytest
import torch

from model.baselines.classical import average, laplacian, maximum
from model.fuser import Fuser, FuserConfig
from model.network import FusionNetwork
from model.shares import share_of_first
from model.strategies import SHARES, STRATEGIES


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


@pytest.mark.parametrize("name", SHARES)
def test_the_share_mixes_the_encodings_to_what_the_strategy_gives(name: str):
    a, b = pair(2, 64, 40, 48)
    x, y = pair(2, 1, 40, 48)
    share = SHARES[name](a, b, x, y)
    assert (share >= 0).all() and (share <= 1).all()
    mixed, fused = torch.lerp(b, a, share), STRATEGIES[name](a, b, x, y)
    if name == "addition":
        mixed = 2 * mixed
    if name == "local-saliency":  # its weights sum to as much as 1.06: the same share of both
        mixed = mixed * (fused / mixed).mean(1, keepdim=True)
    assert torch.allclose(mixed, fused, atol=1e-4)


def test_a_network_has_a_share_a_pixel_at_the_size_of_its_images():
    torch.manual_seed(0)
    fuser = Fuser(FusionNetwork())
    a, b = pair(2, 1, 37, 51)
    shares = fuser.share_each(a, b, list(STRATEGIES))
    assert set(shares) == set(SHARES)
    assert all(share.shape == a.shape for share in shares.values())
    assert torch.allclose(fuser.share_each(b, a, ["sfnn"])["sfnn"], 1 - shares["sfnn"], atol=1e-5)
    assert torch.equal(shares["sfnn"][0], shares["sfnn"][0, :, :1, :1].expand(1, 37, 51))


def test_a_normalised_model_weighs_what_it_fuses():
    torch.manual_seed(0)
    network = FusionNetwork()
    a, b = pair(1, 1, 32, 32)
    levels = ((0.2, 0.8), (0.1, 0.6))
    scaled = [((image - low) / (high - low)).clamp(0, 1) for image, (low, high) in zip((a, b), levels, strict=True)]
    normalising, plain = Fuser(network, FuserConfig(levels=levels)), Fuser(network)
    assert torch.equal(share_of_first(normalising, a, b), share_of_first(plain, *scaled))


def test_of_the_classical_methods_those_that_choose_a_pixel_say_which():
    a, b = torch.tensor([[[[0.2, 0.7, 0.5]]]]), torch.tensor([[[[0.6, 0.1, 0.5]]]])
    assert share_of_first(average, a, b).tolist() == [[[[0.5, 0.5, 0.5]]]]
    assert share_of_first(maximum, a, b).tolist() == [[[[0.0, 1.0, 0.5]]]]
    assert share_of_first(laplacian, a, b) is None


def test_a_strategy_that_weighs_each_channel_has_no_share():
    torch.manual_seed(0)
    fuser = Fuser(FusionNetwork(), FuserConfig("fer"))
    assert share_of_first(fuser, *pair(1, 1, 16, 16)) is None
