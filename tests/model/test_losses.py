"""The three losses: their formulas, the feature stacks behind the perceptual one, and bad weights files."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.filters import sobel_h, sobel_v
from torch.nn import functional as F

from model.errors import InputError
from model.losses import FusionLoss, LossWeights, gradient_loss, l2_loss, perceptual_loss
from model.vgg import MODEL_ZOO, VGG16_BN, VGG19, FeatureStack, feature_stack


def images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, 24, 20, generator=generator), torch.rand(2, 1, 24, 20, generator=generator)


def test_gradient_loss_is_the_difference_of_sobel_magnitudes():
    prediction, target = images()
    expected = 0.0
    for sobel in (sobel_v, sobel_h):
        # scikit-image divides its Sobel filters by 4.
        p, t = (
            np.stack([np.abs(sobel(image.numpy()) * 4)[1:-1, 1:-1] for image in batch[:, 0].double()])
            for batch in (prediction, target)
        )
        expected += float(((p - t) ** 2).mean())
    assert float(gradient_loss(prediction, target)) == pytest.approx(expected, rel=1e-5)


def test_gradient_loss_does_not_see_the_sign_of_an_edge():
    target, _ = images()
    assert float(gradient_loss(1 - target, target)) == pytest.approx(0, abs=1e-10)


def test_total_is_the_weighted_sum_of_the_terms():
    prediction, target = images()
    losses = FusionLoss(LossWeights(l2=1, gradient=0.3, perceptual=0.7), feature_stack("random"))(prediction, target)
    assert float(losses["l2"]) == pytest.approx(float(((prediction - target) ** 2).mean()))
    expected = losses["l2"] + 0.3 * losses["gradient"] + 0.7 * losses["perceptual"]
    assert torch.allclose(losses["total"], expected)
    assert min(float(value) for value in losses.values()) > 0


def test_every_term_vanishes_for_a_perfect_reconstruction_and_pulls_towards_it():
    target, _ = images()
    prediction = (target * 0.9).requires_grad_()
    features = feature_stack("random")
    for loss in (l2_loss, gradient_loss, lambda p, t: perceptual_loss(p, t, features)):
        assert float(loss(target, target)) == 0
        (slope,) = torch.autograd.grad(loss(prediction, target), prediction)
        assert float(loss(prediction.detach() - 1e-2 * slope / slope.abs().max(), target)) < float(
            loss(prediction, target)
        )


def test_a_weight_of_zero_leaves_its_term_out():
    prediction, target = images()
    losses = FusionLoss(LossWeights(perceptual=0), feature_stack("random"))(prediction, target)
    assert float(losses["perceptual"]) == 0


@pytest.mark.parametrize("weights", [{"l2": -1.0}, {"l2": 0.0, "gradient": 0.0, "perceptual": 0.0}])
def test_weights_that_make_no_objective_are_refused(weights: dict[str, float]):
    with pytest.raises(InputError, match="loss weights"):
        LossWeights(**weights)


def test_the_random_stack_is_the_same_every_time_and_never_adapts():
    first, second = feature_stack("random"), feature_stack("random")
    image = images()[0]
    for a, b in zip(first(image), second.train()(image), strict=True):
        assert torch.equal(a, b)
    assert [tap.shape[1:] for tap in first(image)] == [(16, 24, 20), (32, 12, 10), (64, 6, 5)]
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert not second.training


def vgg_weights(*, norm: bool) -> dict[str, torch.Tensor]:
    """Small-valued weights under torchvision's names, to relu3_1 (VGG19) or the third block (VGG16-bn)."""
    layout = (
        {0: 64, 3: 64, 7: 128, 10: 128, 14: 256, 17: 256, 20: 256} if norm else {0: 64, 2: 64, 5: 128, 7: 128, 10: 256}
    )
    weights, channels = {}, 3
    for index, width in layout.items():
        weights[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3) / (3 * channels**0.5)
        weights[f"features.{index}.bias"] = torch.zeros(width)
        if norm:
            for leaf, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                weights[f"features.{index + 1}.{leaf}"] = torch.full((width,), value)
            weights[f"features.{index + 1}.num_batches_tracked"] = torch.tensor(0)
        channels = width
    return weights


@pytest.mark.parametrize("norm", [False, True])
def test_a_vgg_file_is_recognised_and_tapped_in_three_blocks(tmp_path, norm: bool):
    save_file(vgg_weights(norm=norm), tmp_path / "mine.safetensors")
    stack = feature_stack(str(tmp_path / "mine.safetensors"))
    taps = stack(images()[0])
    assert stack.name == "mine"
    assert [tuple(tap.shape[1:]) for tap in taps] == [(64, 24, 20), (128, 12, 10), (256, 6, 5)]
    # Taps of VGG16-bn: the third lies before its ReLU, the others after; VGG19's all lie after.
    assert [bool((tap < 0).any()) for tap in taps] == [False, False, norm]


def literal_features(stack: FeatureStack, image: torch.Tensor) -> list[torch.Tensor]:
    """Layer by layer, the grey image as three channels."""
    x, taps = image.expand(-1, 3, -1, -1), []
    for step in stack.order:
        if step == "tap":
            taps.append(x)
        else:
            x = x.relu() if step == "relu" else F.max_pool2d(x, 2) if step == "pool" else stack.features[step](x)
    return taps


def random_vgg(norm: bool) -> FeatureStack:
    """A stack whose every parameter tells, in double precision."""
    stack = FeatureStack("noise", VGG16_BN if norm else VGG19).double()
    generator = torch.Generator().manual_seed(3)
    for name, value in stack.state_dict().items():
        if value.is_floating_point():
            value.normal_(0, 0.05, generator=generator)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return stack


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("size", [(24, 20), (13, 17)])
def test_the_folded_stack_is_the_literal_one_with_its_gradients(norm: bool, size):
    stack, generator = random_vgg(norm), torch.Generator().manual_seed(4)
    target, start = torch.rand(2, 2, 1, *size, generator=generator, dtype=torch.float64).unbind(0)
    results = []
    for features in (stack, lambda image: literal_features(stack, image)):
        prediction = start.clone().requires_grad_()
        pairs = zip(features(prediction), features(target), strict=True)
        loss = torch.stack([F.mse_loss(p, t.detach()) for p, t in pairs]).sum()
        results.append((*features(target), loss, *torch.autograd.grad(loss, prediction)))
    prediction = start.clone().requires_grad_()
    loss = perceptual_loss(prediction, target, stack)
    results.append((*results[0][:-2], loss, *torch.autograd.grad(3 * loss, prediction)))
    for fast, literal, whole in zip(*results, strict=True):
        assert torch.allclose(fast, literal, rtol=1e-9, atol=1e-12)
        factor = 3 if whole is results[2][-1] else 1
        assert torch.allclose(whole, factor * literal, rtol=1e-9, atol=1e-12)
    with torch.inference_mode():
        assert float(perceptual_loss(start, target, stack)) == pytest.approx(float(loss))


def test_a_stack_follows_new_weights():
    stack, image = random_vgg(True), torch.rand(1, 1, 8, 8, dtype=torch.float64)
    with torch.inference_mode():
        stack(image)
    weights = {name: value * 2 for name, value in stack.state_dict().items()}
    stack.load_state_dict(weights)
    slope = image.clone().requires_grad_()
    assert torch.allclose(stack(slope)[2], literal_features(stack, image)[2])
    stack(slope)[2].sum().backward()
    with torch.no_grad():
        stack.features["1"].bias.add_(1)
    assert torch.allclose(stack(image)[2], literal_features(stack, image)[2])


def test_the_losses_run_in_half_precision_under_autocast():
    prediction, target = images()
    criterion = FusionLoss(LossWeights(), feature_stack("random"))
    exact = criterion(prediction, target)
    with torch.autocast("cpu", torch.bfloat16):
        rough = criterion(prediction.requires_grad_(), target)
    rough["total"].backward()
    assert torch.isfinite(prediction.grad).all()
    assert float(rough["total"]) == pytest.approx(float(exact["total"]), rel=0.05)


def test_an_unknown_stack_and_files_that_hold_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="no feature stack 'vgg11'"):
        feature_stack("vgg11")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(InputError, match="no readable safetensors"):
        feature_stack(str(tmp_path / "text.safetensors"))
    weights = vgg_weights(norm=False)
    del weights["features.7.bias"]
    save_file(weights, tmp_path / "partial.safetensors")
    with pytest.raises(InputError, match=r"features\.7\.bias"):
        feature_stack(str(tmp_path / "partial.safetensors"))


def test_offline_the_error_says_what_to_pass_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(MODEL_ZOO, "vgg16-bn", ("http://127.0.0.1:9/vgg16_bn-6c64b313.pth", "6c64b313"))
    with pytest.raises(InputError, match="--perceptual"):
        feature_stack("vgg16-bn")
    assert not list((tmp_path / "atlas-fusion").iterdir())


def test_downloaded_weights_are_checked_and_kept_as_safetensors(tmp_path, monkeypatch):
    source = tmp_path / "zoo.pth"
    torch.save(vgg_weights(norm=False), source)
    import hashlib

    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(MODEL_ZOO, "vgg19", (source.as_uri(), "0" * 8))
    with pytest.raises(InputError, match="vgg19"):
        feature_stack("vgg19")
    monkeypatch.setitem(MODEL_ZOO, "vgg19", (source.as_uri(), digest[:8]))
    fetched = feature_stack("vgg19")
    source.unlink()
    again = feature_stack("vgg19")
    assert torch.equal(fetched(images()[0])[2], again(images()[0])[2])
    assert [path.name for path in (tmp_path / "cache" / "atlas-fusion").iterdir()] == ["vgg19.safetensors"]
