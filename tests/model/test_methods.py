"""The registry: every method cited and loadable by name, and each reason why one cannot run here."""

import json
from pathlib import Path

import pytest
import torch

from model import methods, vgg
from model.errors import InputError
from model.fuser import Fuser, FuserConfig
from model.methods import CLASSICAL, METHODS, SPLITS, MissingWeights, Resources
from model.networks import NETWORKS
from model.strategies import STRATEGIES

TRAINED = [name for name, method in METHODS.items() if method.trained]
BY_VGG = [name for name, method in METHODS.items() if method.needs == "VGG19 to relu2_2"]


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder in the place of the shipped weights."""
    monkeypatch.setattr(methods, "SHIPPED", tmp_path)
    return tmp_path


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.rand(2, 1, 1, 20, 17, generator=torch.Generator().manual_seed(1))
    return a, b


def test_the_registry_names_cites_and_classes_every_method():
    assert list(METHODS)[:3] == ["dilran", "dilran-sfnn", "dilran-mse-sfnn"]
    assert set(METHODS) >= {f"dilran-{strategy}" for strategy in STRATEGIES} | {"msrpan", "msdra", "shearlet-cnn"}
    assert BY_VGG == ["zero-learning", "zero-learning-two-scale", "zero-learning-multi-layer"]
    assert CLASSICAL == ("average", "maximum", "laplacian", "dwt", "guided-filter")
    for name, method in METHODS.items():
        assert method.name == name
        assert method.title and method.citation[-4:].isdigit()
        assert method.kind == ("network" if name.startswith("dilran") else "baseline")
        assert bool(method.trained) == (method.needs == "trained weights")
    assert len({method.title for method in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("name", CLASSICAL)
def test_the_classical_methods_run_without_any_resource(name: str, shipped: Path):
    assert METHODS[name].load(Resources())(*pair()).shape == (1, 1, 20, 17)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", TRAINED)
def test_weights_that_do_not_ship_are_named_with_the_remedy(name: str, split: str, shipped: Path):
    with pytest.raises(MissingWeights) as refused:
        METHODS[name].load(Resources(split=split))
    said = str(refused.value)
    folder = f"{METHODS[name].trained}-{split}"
    assert said.startswith(
        f"no trained weights shipped for {METHODS[name].trained} on the {split} split; train them by"
    )
    assert folder in said.partition("train them by")[2]
    assert "\n" not in said


@pytest.mark.parametrize("name", BY_VGG)
def test_a_vgg_that_is_not_there_is_missing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MissingWeights, match=r"no VGG19 weights at .*absent\.safetensors"):
        METHODS[name].load(Resources(vgg=tmp_path / "absent.safetensors"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(vgg.MODEL_ZOO, "vgg19", ("http://127.0.0.1:9/vgg19-dcbb9e9d.pth", "dcbb9e9d"))
    with pytest.raises(MissingWeights, match=r"cannot fetch the vgg19 weights.*give the path of a VGG19"):
        METHODS[name].load(Resources())


def test_a_shipped_network_fuses_by_the_strategy_of_its_row_and_split(shipped: Path):
    torch.manual_seed(0)
    # Stored statistics that no image has, so that it shows whose are used.
    network = NETWORKS["dilran"]()
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.fill_(0.5)
    Fuser(network, FuserConfig(strategy="fl1n", batchnorm="stored")).save(shipped / "dilran-paper")
    for name in ("dilran", *(f"dilran-{strategy}" for strategy in STRATEGIES)):
        fused = METHODS[name].load(Resources(split="paper"))(*pair())
        strategy = name.partition("-")[2] or "fl1n"
        # SFNN as published, all others by the model's own statistics.
        expected = Fuser.load(shipped / "dilran-paper", strategy, "image" if strategy == "sfnn" else None)
        assert torch.equal(fused, expected.fuse(*pair())), name
        with pytest.raises(MissingWeights):
            METHODS[name].load(Resources(split="subject"))


@pytest.mark.parametrize(("name", "strategy"), [("msrpan", "fer"), ("msdra", "fl1n")])
def test_the_other_networks_fuse_by_the_strategy_of_their_authors(name: str, strategy: str, shipped: Path):
    torch.manual_seed(0)
    folder = shipped / f"{name}-subject"
    Fuser(NETWORKS[name](), FuserConfig(strategy="average", network=name)).save(folder)
    fused = METHODS[name].load(Resources())(*pair())
    assert torch.equal(fused, Fuser.load(folder, strategy).fuse(*pair()))


def test_damaged_weights_are_no_missing_weights(shipped: Path):
    (shipped / "dilran-subject").mkdir()
    with pytest.raises(InputError, match="holds no model") as refused:
        METHODS["dilran"].load(Resources())
    assert not isinstance(refused.value, MissingWeights)


def test_every_folder_that_ships_is_what_its_name_says():
    for folder in methods.SHIPPED.glob("*"):
        trained, _, split = folder.name.rpartition("-")
        assert split in SPLITS
        assert trained in {method.trained for method in METHODS.values()}
        network = json.loads((folder / "config.json").read_text())["network"]
        assert network == trained.removesuffix("-mse")


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="unknown split 'random'; choose one of subject, paper"):
        Resources(split="random")
