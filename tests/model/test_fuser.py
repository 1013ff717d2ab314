"""The Fuser: fusing any size, saving and loading, and refusing what is no model."""

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model.errors import InputError
from model.fuser import Fuser, FuserConfig, weights_sha256
from model.network import FusionNetwork
from model.networks import NETWORKS
from model.strategies import STRATEGIES


@pytest.fixture(scope="module")
def fuser() -> Fuser:
    torch.manual_seed(0)
    return Fuser(FusionNetwork(), FuserConfig("sfnn"))


def test_a_large_odd_pair_is_the_literal_fusion_of_the_padded_one(fuser: Fuser):
    a, b = torch.rand(2, 1, 1, 71, 133, generator=torch.Generator().manual_seed(1))
    padded = [torch.nn.functional.pad(image, (0, 1, 0, 1), mode="replicate") for image in (a, b)]
    with torch.inference_mode():
        encodings = [fuser.network.encoder(image, "image") for image in padded]
        literal = fuser.network.decoder(STRATEGIES["sfnn"](*encodings, *padded)).clamp(0, 1)[..., :71, :133]
    assert torch.allclose(fuser.fuse(a, b), literal, atol=1e-4)


LEVELS = ((0.1, 0.5), (0.0, 0.8))


def test_a_network_of_normalised_images_normalises_what_it_fuses(fuser: Fuser, tmp_path: Path):
    a, b = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    Fuser(fuser.network, FuserConfig("sfnn", levels=LEVELS)).save(tmp_path)
    saved = Fuser.load(tmp_path)
    assert saved.config.levels == LEVELS
    expected = fuser.fuse(((a - 0.1) / 0.4).clamp(0, 1), (b / 0.8).clamp(0, 1))
    assert torch.allclose(saved.fuse(a, b), expected, atol=1e-6)
    assert not torch.allclose(saved.fuse(a, b), fuser.fuse(a, b), atol=1e-2)


def test_a_model_without_levels_is_saved_as_ever(fuser: Fuser, tmp_path: Path):
    fuser.save(tmp_path)
    assert "levels" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("levels", [[[0, 1]], [[0.5, 0.5], [0, 1]], [[0, 1.1], [0, 1]], "wide", [[0, "1"], [0, 1]]])
def test_levels_that_are_no_ranges_are_refused(levels):
    with pytest.raises(InputError, match="give two ranges within 0 and 1"):
        FuserConfig(levels=levels)


def test_threads_may_share_a_fuser(fuser: Fuser):
    pairs = [torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    expected = [fuser.fuse(*pair) for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        fused = list(pool.map(lambda pair: fuser.fuse(*pair), pairs))
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(fused, expected, strict=True))


def test_half_precision_stays_near(fuser: Fuser):
    a, b = torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(3))
    half = Fuser(fuser.network, fuser.config, precision="bfloat16")
    assert half.fuse(a, b).dtype == torch.float32
    assert float((half.fuse(a, b) - fuser.fuse(a, b)).abs().max()) < 0.02


def test_a_device_or_precision_that_cannot_be_is_refused(fuser: Fuser):
    with pytest.raises(InputError, match="'nowhere' cannot be used here"):
        Fuser(fuser.network, device="nowhere")
    with pytest.raises(InputError, match="unknown precision 'int8'"):
        Fuser(fuser.network, precision="int8")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_saved_and_loaded_with_its_own_strategy(name: str, tmp_path):
    torch.manual_seed(1)
    network = NETWORKS[name]()
    saved = Fuser(network, FuserConfig(network.strategy, network=name))
    saved.save(tmp_path / "model")
    loaded = Fuser.load(tmp_path / "model")
    a, b = torch.rand(2, 1, 1, 19, 35)
    assert loaded.config == saved.config
    assert loaded.fuse(a, b).shape == a.shape
    assert torch.equal(loaded.fuse(a, b), saved.fuse(a, b))


@settings(max_examples=20)
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
    spoil("folder", lambda f: (f / "config.json").unlink() or (f / "config.json").mkdir())
    for name, complaint in {
        "folder": r"cannot read .*folder/config\.json: Is a directory",
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


def test_a_model_that_may_not_be_read_is_no_damaged_one(fuser: Fuser, tmp_path, monkeypatch):
    fuser.save(tmp_path)

    def locked(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for reader, name in (("read_text", "config.json"), ("read_bytes", "weights.safetensors")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, reader, locked)
            with pytest.raises(InputError, match=rf"^cannot read .*/{name}: Permission denied; check its permissions$"):
                Fuser.load(tmp_path)


@pytest.mark.parametrize("field", ["strategy", "batchnorm", "network"])
def test_unknown_choices_list_the_known_ones(field: str):
    with pytest.raises(InputError, match="choose one of"):
        FuserConfig(**{field: "nonsense"})
