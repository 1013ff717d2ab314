"""Training that goes on from its flattened state is the training that never stopped, bit for bit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model.checkpoint_format import Checkpoint, packed, unpacked
from model.networks import NETWORKS
from model.training_state import flatten, load_optimiser, random_state, restore, set_random_state

CPU = torch.device("cpu")
OPTIMISERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, foreach=False),
    "adam foreach": lambda parameters: torch.optim.Adam(parameters, lr=0.01, betas=(0.8, 0.95), foreach=True),
    "adam fused": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
    "adam amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.01), amsgrad=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
}
SCHEDULERS = {
    "lambda": lambda optimiser: torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step)),
    "cosine": lambda optimiser: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 5),
    "plateau": lambda optimiser: torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, patience=0),
}


class Training:
    """A few steps of a small network that draws random numbers, with everything that has state."""

    def __init__(self, optimiser: str, scheduler: str, channels_last: bool, seed: int):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.3), nn.Conv2d(5, 4, 3), nn.PReLU()]
        self.network = nn.Sequential(*layers)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.optimiser = OPTIMISERS[optimiser](self.network.parameters())
        self.scheduler = SCHEDULERS[scheduler](self.optimiser)

    def steps(self, count: int) -> None:
        for _ in range(count):
            images = torch.randn(2, 3, 6, 6)
            loss = self.network(images).square().mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.scheduler.step(*([loss.item()] if "Plateau" in type(self.scheduler).__name__ else []))

    def tensors(self) -> dict[str, torch.Tensor]:
        return (
            flatten("network", self.network.state_dict())
            | flatten("optimiser", self.optimiser.state_dict())
            | flatten("scheduler", self.scheduler.state_dict())
            | flatten("random", random_state(CPU))
        )

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        self.network.load_state_dict(restore("network", tensors))
        load_optimiser(self.optimiser, restore("optimiser", tensors))
        self.scheduler.load_state_dict(restore("scheduler", tensors))
        set_random_state(restore("random", tensors), CPU)


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(OPTIMISERS)),
    st.sampled_from(sorted(SCHEDULERS)),
    st.booleans(),
    st.integers(0, 2**32),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_n_steps_are_k_steps_a_checkpoint_and_the_rest(optimiser, scheduler, channels_last, seed, before, after):
    with torch.random.fork_rng(devices=[]):
        whole = Training(optimiser, scheduler, channels_last, seed)
        whole.steps(before)
        data = packed(Checkpoint(before, whole.tensors(), {}), {})
        whole.steps(after)
        expected = whole.tensors()
        resumed = Training(optimiser, scheduler, channels_last, seed + 1)
        resumed.load(unpacked(data, {}, "here").tensors)
        resumed.steps(after)
        found = resumed.tensors()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].stride() == tensor.stride(), name


def test_a_resumed_optimiser_keeps_each_state_in_the_memory_format_of_its_parameter():
    training = Training("adam", "lambda", True, 1)
    training.steps(2)
    resumed = Training("adam", "lambda", True, 2)
    resumed.load(unpacked(packed(Checkpoint(2, training.tensors(), {}), {}), {}, "here").tensors)
    weight = resumed.network[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert resumed.optimiser.state[weight]["exp_avg"].stride() == weight.stride()
    assert resumed.optimiser.state[weight]["exp_avg_sq"].stride() == weight.stride()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_project_comes_back_with_its_optimiser(name):
    first, second = NETWORKS[name](), NETWORKS[name]()
    optimisers = [torch.optim.Adam(network.parameters()) for network in (first, second)]
    first.encoder(torch.rand(2, 1, 32, 32), "batch").square().mean().backward()
    optimisers[0].step()
    state = flatten("network", first.state_dict()) | flatten("optimiser", optimisers[0].state_dict())
    tensors = unpacked(packed(Checkpoint(1, state, {}), {}), {}, "here").tensors
    second.load_state_dict(restore("network", tensors))
    load_optimiser(optimisers[1], restore("optimiser", tensors))
    again = flatten("network", second.state_dict()) | flatten("optimiser", optimisers[1].state_dict())
    assert list(again) == list(state)
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_a_gradient_scaler_comes_back():
    state = torch.amp.GradScaler("cpu", init_scale=1024.5, growth_interval=7).state_dict()
    scaler = torch.amp.GradScaler("cpu")
    scaler.load_state_dict(restore("scaler", flatten("scaler", state)))
    assert state and scaler.state_dict() == state


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.integers() | st.text()


def same(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a, math.copysign(1, a)) == (b, math.copysign(1, b))
    return a == b


@given(
    st.recursive(
        LEAVES | st.integers(0, 3).map(torch.arange),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(KEYS.filter(lambda key: "/" not in str(key)), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_nested_state_comes_back_with_its_types(state):
    keys_clash = False
    try:
        tensors = flatten("state", state)
    except TypeError as error:
        keys_clash = "two tensors" in str(error)
        assert keys_clash
    if not keys_clash:
        assert same(restore("state", tensors), state)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"a": {1, 2}}, "state/a is set"),
        ({"a": [lambda: 0]}, "state/a/0 is function"),
        ({(1, 2): 3}, r"state has the key \(1, 2\)"),
        ({"a/b": torch.ones(1), "a": {"b": torch.ones(1)}}, "two tensors of the state are called state/a/b"),
    ],
)
def test_what_cannot_be_kept_exactly_is_refused(state, told):
    with pytest.raises(TypeError, match=told):
        flatten("state", state)
