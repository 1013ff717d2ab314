"""The state of networks, optimisers, schedulers and random generators as named tensors, and back bit for bit."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def flatten(prefix: str, state: Any) -> dict[str, Tensor]:
    """A state dict as flat tensors: its own under `prefix/path`, and its structure as JSON (uint8) in `prefix.json`.

    `state` nests dicts (keys str or int), lists and tuples of tensors, numbers, texts and None; TypeError for others.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_structure(prefix, state, tensors)).encode()
    return tensors | {f"{prefix}.json": torch.frombuffer(bytearray(structure), dtype=torch.uint8)}


def restore(prefix: str, tensors: Mapping[str, Tensor]) -> Any:
    """The state that `flatten` took apart under `prefix`; KeyError if there is none."""
    return _state(json.loads(bytes(tensors[f"{prefix}.json"].tolist())), tensors)


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict such that the optimiser goes on bit for bit, on whatever device its parameters are.

    What belongs to a parameter's elements takes the parameter's memory format, so that the same kernels run.
    """
    own = [
        {name: value.device for name, value in group.items() if isinstance(value, Tensor)}
        for group in optimiser.param_groups
    ]
    optimiser.load_state_dict(state)
    for group, devices in zip(optimiser.param_groups, own, strict=True):
        group.update({name: torch.as_tensor(group[name], device=device) for name, device in devices.items()})
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):
        for name, value in state["state"].get(index, {}).items():
            # Adam counts its steps in a scalar, on the CPU unless it is capturable, whatever the parameter.
            if name != "step" and isinstance(value, Tensor) and value.shape == parameter.shape:
                like = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
                optimiser.state[parameter][name] = like.copy_(value)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators that a process on `device` draws from."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Let torch's generators go on where `random_state` was taken; KeyError if it was on another kind of device."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _structure(path: str, state: Any, tensors: dict[str, Tensor]) -> Any:
    """The state as JSON in which tensors are names; the tensors themselves are added to `tensors`."""
    if isinstance(state, Tensor):
        if path in tensors:
            raise TypeError(f"two tensors of the state are called {path}")
        tensors[path] = state.detach()
        return {"tensor": path}
    if isinstance(state, Mapping):
        _check_keys(path, state)
        return {"dict": [[key, _structure(f"{path}/{key}", value, tensors)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        kind = "list" if isinstance(state, list) else "tuple"
        return {kind: [_structure(f"{path}/{number}", value, tensors) for number, value in enumerate(state)]}
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise TypeError(f"{path} is {type(state).__name__}, which a checkpoint cannot hold")


def _check_keys(path: str, state: Mapping[Any, Any]) -> None:
    for key in state:
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise TypeError(f"{path} has the key {key!r}, which a checkpoint cannot hold")


def _state(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(structure, dict):
        return structure
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _state(value, tensors) for key, value in content}
    return {"list": list, "tuple": tuple}[kind](_state(value, tensors) for value in content)
