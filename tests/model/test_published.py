"""The published weights: every tensor has its place here, and a file that is not theirs is refused by what is wrong."""

import math
import re
import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import InputError
from model.network import FusionNetwork
from model.published import PUBLISHED, UNUSED, is_published, read_published, read_shapes
from model.published import __doc__ as told


@pytest.fixture(scope="module")
def network() -> FusionNetwork:
    torch.manual_seed(0)
    return FusionNetwork()


@pytest.fixture(scope="module")
def published(network) -> dict[str, torch.Tensor]:
    """A network's tensors under the published names, beside one that the forward pass does not use."""
    names = {ours: theirs for theirs, ours in PUBLISHED.items()}
    state = {
        f"{names[module]}.{leaf}": tensor.clone()
        for (module, _, leaf), tensor in ((name.rpartition("."), t) for name, t in network.state_dict().items())
    }
    return state | {"fe.conv2.0.weight": torch.full((64, 64, 3, 3), torch.nan)}


def test_the_published_names_give_the_network_back_and_drop_what_it_never_used(tmp_path, network, published):
    save_file(published, tmp_path / "p.safetensors")
    again = read_published(tmp_path / "p.safetensors").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in network.state_dict().items())


def test_the_published_file_is_the_one_the_tables_tell_of(shared):
    shapes = read_shapes(shared / "weights" / "dilran_published.safetensors")
    assert is_published(shapes)
    table = {
        module: int(n.replace(",", "")) for module, n in re.findall(r"^\| (fe\S*|recon\S*) .* ([\d,]+) \|$", told, re.M)
    }
    assert set(table) == set(PUBLISHED) | set(UNUSED)
    counted = dict.fromkeys(table, 0)
    for name, shape in shapes.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            (module,) = (module for module in table if name.startswith(f"{module}."))
            counted[module] += math.prod(shape)
    assert counted == table
    assert sum(table[module] for module in PUBLISHED) == 216_001
    assert sum(table[module] for module in UNUSED) == 86_720


def test_a_file_that_is_not_theirs_is_refused_by_what_is_wrong_with_it(tmp_path, network, published):
    def spoiled(change: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in (published | change).items() if tensor is not None}

    cases = {
        "lacking": (spoiled({"fe.conv1.bias": None, "fe.conv1.weight": None}), r"lacks fe\.conv1\.bias and 1 more"),
        "more": (spoiled({"head.weight": torch.zeros(1)}), r"unknown head\.weight;"),
        "shape": (
            spoiled({"fe.conv1.weight": torch.zeros(64, 3, 1, 1)}),
            r"fe\.conv1\.weight is 64x3x1x1, .* 64x1x1x1",
        ),
        "nan": (spoiled({"fe.conv1.bias": torch.full((64,), torch.nan)}), r"fe\.conv1\.bias has values that are not"),
        "foreign": ({"conv.weight": torch.zeros(2)}, "none of the published tensors.*name the authors' file"),
        "ours": (network.state_dict(), "--model takes it as it is"),
        "empty": ({}, "none of the published tensors"),
    }
    for name, (tensors, complaint) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        with pytest.raises(InputError, match=complaint) as caught:
            read_published(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_whole_safetensors_file_is_refused(tmp_path, published):
    save_file(published, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for kept in (0, 1, 7, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"cut\.safetensors is truncated or no safetensors file"):
            read_published(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="no such weights file"):
        read_published(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        read_published(tmp_path)


@pytest.mark.parametrize("name", ["last.pt", "it's a model.pth"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path, published, name: str):
    torch.save(published, tmp_path / name)
    with pytest.raises(InputError, match="PyTorch pickle") as caught:
        read_published(tmp_path / name)
    program, option, code = shlex.split(str(caught.value).partition("convert it once: ")[2])
    assert (program, option) == ("python", "-c")
    exec(compile(code, "message", "exec"), {})
    written = (tmp_path / name).with_suffix(".safetensors")
    assert load_file(written).keys() == published.keys()
    assert isinstance(read_published(written), FusionNetwork)
