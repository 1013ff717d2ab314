"""A network of another width is the same function of its weights on every path, and old folders stay what they were."""

import json
import re

import pytest
import torch

from model.errors import InputError
from model.fast import FastDecoder, FastEncoder
from model.fuser import SHIPPED_MODEL, Fuser, FuserConfig
from model.network import FusionNetwork
from model.networks import make_network
from model.training_config import TrainingConfig


def network(width: int) -> FusionNetwork:
    """A network whose BatchNorm neither starts nor stays at its trivial values."""
    torch.manual_seed(width)
    made = make_network("dilran", width)
    assert isinstance(made, FusionNetwork)
    for buffer, low in ((made.encoder.norm.running_mean, -0.1), (made.encoder.norm.running_var, 0.5)):
        buffer.uniform_(low, 1.0)
    torch.nn.init.uniform_(made.encoder.norm.weight, 0.5, 1.5)
    torch.nn.init.uniform_(made.encoder.norm.bias, -0.5, 0.5)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("width", [8, 24, 96])
@pytest.mark.parametrize("statistics", ["image", "stored"])
def test_the_fast_path_is_the_plain_one_at_any_width(width: int, statistics: str):
    plain, x = network(width), torch.rand(2, 1, 70, 134, generator=torch.Generator().manual_seed(1))
    encodings = plain.encoder(x, statistics)
    assert encodings.shape == (2, width, 70, 134)
    fast = FastEncoder(plain.encoder)(x, statistics)
    assert torch.allclose(fast, encodings, rtol=1e-4, atol=1e-4 * float(encodings.abs().max()))
    image = torch.nn.Sequential(*plain.decoder)(encodings)
    scale = float(image.abs().max())
    assert torch.allclose(FastDecoder(plain.decoder)(encodings), image, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("width", [16, 128])
def test_a_model_folder_carries_its_width_and_fuses_as_before_it_was_saved(width: int, tmp_path):
    fuser = Fuser(network(width), FuserConfig("fer"))
    fuser.save(tmp_path)
    loaded = Fuser.load(tmp_path)
    a, b = torch.rand(2, 1, 1, 65, 80, generator=torch.Generator().manual_seed(2))
    assert loaded.config == FuserConfig("fer", width=width)
    assert torch.equal(loaded.fuse(a, b), fuser.fuse(a, b))
    plain = Fuser.load(tmp_path, fast=False)
    assert torch.allclose(loaded.fuse(a, b), plain.fuse(a, b), atol=1e-4)


def test_a_folder_that_says_no_width_is_of_the_published_one(tmp_path):
    assert "width" not in json.loads((SHIPPED_MODEL / "config.json").read_text())
    assert Fuser.load(SHIPPED_MODEL).network.width == 64
    Fuser.load(SHIPPED_MODEL).save(tmp_path)
    for name in ("config.json", "weights.safetensors"):
        assert (tmp_path / name).read_bytes() == (SHIPPED_MODEL / name).read_bytes()


def test_weights_of_another_width_than_the_folder_says_are_refused(tmp_path):
    Fuser(network(16)).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"width": 24}))
    with pytest.raises(InputError, match="another architecture than dilran of width 24"):
        Fuser.load(tmp_path)


@pytest.mark.parametrize("width", [0, 4, 12, 264, -8, "64", 64.0, True, None])
def test_a_width_that_cannot_be_is_refused(width):
    for make in (lambda: TrainingConfig(width=width), lambda: FuserConfig(width=width)):
        with pytest.raises(InputError, match=rf"width is {re.escape(str(width))}; give a multiple of 8 from 8 to 256"):
            make()


@pytest.mark.parametrize("name", ["msrpan", "msdra"])
def test_other_networks_come_in_one_width(name: str):
    assert TrainingConfig(network=name).width == 64
    with pytest.raises(InputError, match=f"width is 32, but {name} comes in 64 only"):
        TrainingConfig(network=name, width=32)
