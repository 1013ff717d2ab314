"""The Fuser: fusing any size, saving and loading, and refusing what is no model."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model.errors import InputError
from model.fuser import Fuser, FuserConfig, weights_sha256
from model.network import FusionNetwork


@pytest.fixture(scope="module")
def fuser() -> Fuser:
    torch.manual_seed(0)
    return Fuser(FusionNetwork())


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 25), width=st.integers(1, 25), count=st.integers(1, 3))
def test_any_size_is_fused_to_the_same_size_within_range(fuser: Fuser, height: int, width: int, count: int):
    a, b = torch.rand(2, count, 1, height, width)
    fused = fuser.fuse(a, b)
    assert fused.shape == a.shape
    assert torch.isfinite(fused).all()
    assert 0 <= float(fused.min()) <= float(fused.max()) <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images_give_a_finite_result(fuser: Fuser, value: float):
    flat = torch.full((1, 1, 16, 16), value)
    assert torch.isfinite(fuser.fuse(flat, flat)).all()


def test_a_batch_fuses_like_its_pairs_alone(fuser: Fuser):
    a, b = torch.rand(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    alone = torch.cat([fuser.fuse(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    assert torch.allclose(fuser.fuse(a, b), alone, atol=1e-5)


def test_several_strategies_share_the_encodings_and_agree_with_each_alone(fuser: Fuser, tmp_path):
    a, b = torch.rand(2, 1, 1, 15, 16, generator=torch.Generator().manual_seed(5))
    fuser.save(tmp_path)
    every = fuser.fuse_each(a, b, ["fer", "sfnn"])
    assert list(every) == ["fer", "sfnn"]
    for name, fused in every.items():
        assert torch.allclose(fused, Fuser.load(tmp_path, strategy=name).fuse(a, b), atol=1e-6)
    assert not torch.allclose(every["fer"], every["sfnn"], atol=1e-4)


def test_batchnorm_statistics_are_a_choice_that_shows(fuser: Fuser, tmp_path):
    fuser.save(tmp_path)
    a, b = torch.rand(2, 1, 1, 16, 16)
    image, stored = (Fuser.load(tmp_path, batchnorm=kind).fuse(a, b) for kind in ("image", "stored"))
    assert not torch.allclose(image, stored, atol=1e-4)


def test_a_saved_model_fuses_as_before_and_saves_the_same_bytes(fuser: Fuser, tmp_path):
    fuser.save(tmp_path / "a")
    again = Fuser.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert weights_sha256(tmp_path / "a") == weights_sha256(tmp_path / "b")
    a, b = torch.rand(2, 1, 1, 16, 16)
    assert torch.equal(fuser.fuse(a, b), again.fuse(a, b))


def test_bad_pairs_are_refused(fuser: Fuser):
    good = torch.rand(1, 1, 8, 8)
    bad = good.clone()
    bad[0, 0, 0, 0] = float("nan")
    for other, complaint in ((torch.rand(1, 1, 8, 10), "8x8 and 10x8"), (bad, "not finite"), (good / 0, "not finite")):
        with pytest.raises(InputError, match=complaint):
            fuser.fuse(good, other)
    with pytest.raises(InputError, match="shape"):
        fuser.fuse(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))


def test_what_is_no_model_is_refused_by_name(fuser: Fuser, tmp_path):
    fuser.save(tmp_path / "good")
    weights = load_file(tmp_path / "good" / "weights.safetensors")

    def spoil(name: str, change) -> None:
        folder = tmp_path / name
        fuser.save(folder)
        change(folder)

    spoil("no-weights", lambda f: (f / "weights.safetensors").unlink())
    spoil("cut", lambda f: (f / "weights.safetensors").write_bytes((f / "weights.safetensors").read_bytes()[:1000]))
    spoil("other", lambda f: save_file({"conv.weight": torch.zeros(3)}, f / "weights.safetensors"))
    spoil("shape", lambda f: save_file(weights | {"decoder.2.bias": torch.zeros(3)}, f / "weights.safetensors"))
    spoil("no-json", lambda f: (f / "config.json").write_text("{"))
    spoil("foreign", lambda f: (f / "config.json").write_text(json.dumps({"layers": 3})))
    for name, complaint in {
        "no-weights": "weights.safetensors is missing",
        "cut": "damaged",
        "other": "another architecture",
        "shape": "another architecture",
        "no-json": "damaged",
        "foreign": "not the configuration",
        "absent": "config.json is missing",
    }.items():
        with pytest.raises(InputError, match=complaint) as caught:
            Fuser.load(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["strategy", "batchnorm", "network"])
def test_unknown_choices_list_the_known_ones(field: str):
    with pytest.raises(InputError, match="choose one of"):
        FuserConfig(**{field: "nonsense"})
