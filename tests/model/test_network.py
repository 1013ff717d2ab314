"""The network is the published one, and its fast forward is the literal one."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from model import network as networks
from model.composed import SMALLEST as SMALLEST_COMPOSED
from model.fast import SMALLEST, FastDecoder, FastEncoder
from model.fuser import Fuser, FuserConfig
from model.images import read_grey
from model.network import DILATIONS, Encoder, FusionNetwork, attend, attention, plain_decoder
from model.published import read_published
from model.strategies import sfnn_weight


def literal_encoder(encoder: Encoder, x: Tensor, statistics: str) -> Tensor:
    """The encoder as the paper draws it, layer by layer."""
    shallow = x + attention(x) * encoder.lift(x)
    scales = encoder.reduce(torch.cat([convolution(shallow) for convolution in encoder.dilated], dim=1))
    m = normalise(encoder, scales, statistics)
    c = encoder.residual
    k = c(m) + c(c(m)) + c(c(c(m)))
    d = normalise(encoder, m + attention(m) * k, statistics)
    return shallow + attention(shallow) * d


def normalise(encoder: Encoder, x: Tensor, statistics: str) -> Tensor:
    norm = encoder.norm
    if statistics == "stored":
        mean, variance = norm.running_mean, norm.running_var
        mean, variance = mean[None, :, None, None], variance[None, :, None, None]
    else:
        axes = (2, 3) if statistics == "image" else (0, 2, 3)
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.fixture(scope="module")
def network() -> FusionNetwork:
    torch.manual_seed(0)
    network = FusionNetwork()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        network.encoder.norm.running_mean.normal_()
        network.encoder.norm.running_var.uniform_(0.5, 2)
    return network


def test_the_network_has_exactly_the_parameters_that_the_method_uses():
    assert sum(parameter.numel() for parameter in FusionNetwork().parameters()) == 216_001


def test_attention_pools_upsamples_and_cuts_at_zero():
    x = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[-1.0, -3.0], [1.0, 1.0]]]])
    assert attention(x).tolist() == [[[[4.0, 4.0], [4.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]]


@pytest.mark.parametrize("statistics", ["batch", "image", "stored"])
def test_the_fast_encoder_is_the_literal_one(network: FusionNetwork, statistics: str):
    x = torch.rand(2, 1, 20, 28, generator=torch.Generator().manual_seed(1))
    fast = network.encoder(x, statistics)
    assert torch.allclose(
        fast, literal_encoder(network.encoder, x, statistics), rtol=1e-4, atol=1e-4 * float(fast.detach().abs().max())
    )


@pytest.mark.parametrize("size", [(SMALLEST, SMALLEST), (66, 130), (130, 70), (96, 192)])
@pytest.mark.parametrize("statistics", ["image", "stored"])
def test_inference_by_fourier_transforms_is_the_literal_encoder(network: FusionNetwork, size, statistics: str):
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        fast = FastEncoder(network.encoder)(x, statistics)
        literal = literal_encoder(network.encoder, x, statistics)
    assert torch.allclose(fast, literal, rtol=1e-4, atol=1e-4 * float(literal.abs().max()))


@pytest.mark.parametrize("size", [(SMALLEST, SMALLEST), (66, 131)])
def test_one_wide_convolution_is_the_decoder_up_to_its_borders(network: FusionNetwork, size):
    encodings = torch.randn(2, 64, *size, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        fast, literal = FastDecoder(network.decoder)(encodings), network.decoder(encodings)
    assert torch.allclose(fast, literal, rtol=1e-4, atol=1e-4 * float(literal.abs().max()))


def test_the_fast_encoder_has_the_literal_gradients(network: FusionNetwork):
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    gradients = []
    for forward in (network.encoder, lambda x, s: literal_encoder(network.encoder, x, s)):
        network.zero_grad()
        network.decoder(forward(x, "batch")).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters()})
    for name, fast in gradients[0].items():
        # Convolution biases before a BatchNorm have no effect, so their gradient is rounding alone.
        scale = max(float(gradients[1][name].abs().max()), 1e-2)
        assert torch.allclose(fast, gradients[1][name], rtol=1e-4, atol=1e-4 * scale), name


@pytest.mark.parametrize("statistics", ["batch", "image"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_training_step_has_the_literal_gradients(network: FusionNetwork, statistics: str, layout):
    network = copy.deepcopy(network).double().to(memory_format=layout)
    x = torch.rand(2, 1, 36, 42, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    results = []
    for encode, decode in (
        (network.encoder, network.decoder),
        (lambda x, s: literal_encoder(network.encoder, x, s), nn.Sequential(*network.decoder)),
    ):
        network.zero_grad()
        image = decode(encode(x, statistics))
        (image - x).square().sum().backward()
        results.append([image.detach(), *(parameter.grad.clone() for parameter in network.parameters())])
    for fast, literal in zip(*results, strict=True):
        assert torch.allclose(fast, literal, rtol=1e-9, atol=1e-9 * max(float(literal.abs().max()), 1))


@pytest.mark.parametrize("size", [(SMALLEST_COMPOSED, SMALLEST_COMPOSED), (37, 50)])
def test_a_chain_of_convolutions_is_one_with_exact_borders_and_gradients(size):
    torch.manual_seed(7)
    chain = plain_decoder().double()
    # Strides of neither usual layout.
    x = torch.randn(2, size[0], 64, size[1], dtype=torch.float64).transpose(1, 2).requires_grad_()
    slope = torch.randn(2, 1, *size, dtype=torch.float64)
    leaves = [x, *chain.parameters()]
    fast, literal = chain(x), nn.Sequential(*chain)(x)
    assert torch.allclose(fast, literal, atol=1e-12)
    for a, b in zip(torch.autograd.grad(fast, leaves, slope), torch.autograd.grad(literal, leaves, slope), strict=True):
        assert torch.allclose(a, b, atol=1e-11 * max(float(b.abs().max()), 1))


@settings(max_examples=10)
@given(height=st.integers(1, 4), width=st.integers(1, 4), last=st.booleans())
def test_attending_is_the_residual_with_its_gradients(height: int, width: int, last: bool):
    layout = torch.channels_last if last else torch.contiguous_format
    x, y = torch.randn(2, 2, 3, 2 * height, 2 * width, dtype=torch.float64).unbind(0)
    leaves = [t.contiguous(memory_format=layout).requires_grad_() for t in (x, y)]
    assert torch.allclose(attend(*leaves), x + attention(x) * y)
    assert torch.autograd.gradcheck(attend, leaves)


def test_a_training_step_runs_in_half_precision_under_autocast(network: FusionNetwork):
    network, x = copy.deepcopy(network), torch.rand(1, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x)
    exact = network(x)
    rough.float().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    assert torch.allclose(rough.float(), exact, atol=0.1 * float(exact.detach().abs().max()))


def test_the_dilated_branches_see_as_far_as_their_dilation():
    encoder = Encoder().eval()
    x = torch.zeros(1, 1, 40, 40)
    touched = x.clone()
    touched[..., 20, 20] = 1
    with torch.inference_mode():
        change = (encoder._shallow_and_scales(touched)[1] - encoder._shallow_and_scales(x)[1]).abs().sum(1)[0]
    rows = change.sum(1).nonzero().flatten()
    assert (int(rows.min()), int(rows.max())) == (20 - max(DILATIONS), 21 + max(DILATIONS))


@settings(max_examples=15)
@given(height=st.integers(1, 16), width=st.integers(1, 16), batch=st.integers(1, 3))
def test_even_sizes_of_every_kind_keep_their_shape(height: int, width: int, batch: int):
    x = torch.rand(batch, 1, 2 * height, 2 * width)
    assert FusionNetwork().eval()(x, "stored").shape == x.shape


def test_single_image_statistics_make_an_encoding_independent_of_its_batch(network: FusionNetwork):
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    together = network.encoder(x, "image")
    alone = torch.cat([network.encoder(image[None], "image") for image in x])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_stored_statistics_follow_what_training_sees_and_nothing_else(network: FusionNetwork):
    network, x = copy.deepcopy(network), torch.rand(2, 1, 8, 8)
    for training, statistics, follow in (
        (False, "image", False),
        (False, "stored", False),
        (False, "batch", False),
        (True, "stored", False),
        (True, "image", True),
        (True, "batch", True),
    ):
        before = network.encoder.norm.running_mean.clone()
        network.train(training).encoder(x, statistics)
        assert torch.equal(network.encoder.norm.running_mean, before) is not follow


def test_published_weights_give_the_published_images(shared):
    fuser = Fuser(read_published(shared / "weights" / "dilran_published.safetensors"), FuserConfig("sfnn", "image"))
    reference = np.load(shared / "vectors" / "reference_fused.npz")
    names = [name for name in reference if name.isdigit()]
    assert names
    for name in names:
        ct, mr = (read_grey(shared / "atlas" / "CT-MRI" / kind / f"{name}.png")[None] for kind in ("CT", "MRI"))
        fused = (fuser.fuse(ct, mr)[0, 0] * 255).floor().int().numpy()
        close = np.abs(fused - reference[name].astype(int)) <= 1
        assert close.mean() > 0.999
        weight = sfnn_weight(fuser.encode(ct), fuser.encode(mr))
        assert float(weight) == pytest.approx(float(reference[f"w_ct_{name}"]), abs=1e-3)


def test_the_decoder_has_no_activation_between_its_convolutions(network: FusionNetwork):
    e = torch.randn(1, 64, 8, 8)
    half = network.decoder(e / 2) - network.decoder(torch.zeros_like(e))
    assert torch.allclose(2 * half, network.decoder(e) - network.decoder(torch.zeros_like(e)), atol=1e-4)


def test_functional_sanity_of_the_upsampling():
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(attention(x)[..., ::2, ::2], F.avg_pool2d(x, 2))


@pytest.mark.parametrize("statistics", ["batch", "image"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalisation_has_the_gradients_of_its_formula(statistics: str, count: int, layout: torch.memory_format):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8).double()
    nn.init.normal_(norm.weight)
    x, wanted = (torch.randn(count, 8, 6, 4, dtype=torch.double).contiguous(memory_format=layout) for _ in range(2))
    found = [x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2)]
    over = (2, 3) if statistics == "image" else (0, 2, 3)
    variance, mean = torch.var_mean(found[0], over, correction=0, keepdim=True)
    by_formula = (found[0] - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None]
    by_formula.backward(wanted)
    expected, norm.weight.grad = norm.weight.grad, None
    networks.normalise(norm, found[1], statistics).backward(wanted)
    torch.testing.assert_close(found[1].grad, found[0].grad)
    torch.testing.assert_close(norm.weight.grad, expected)
