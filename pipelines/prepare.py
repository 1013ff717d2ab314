"""Check a local run's parameters as far as can be before it starts, and fill in what it knows about itself."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.code import code_version, git_commit
from components.evaluate.evaluation import parse_strategies
from components.ingest.dataset import PHANTOM, check_collection, check_folder, check_remote
from components.ingest.listing import check_version
from components.ingest.phantom import PhantomConfig
from components.ingest.remote import LATEST, SCHEME, latest_version, parse_remote
from components.ingest.version import folder_version
from components.preprocess.preparation import Preparation
from components.preprocess.splits import parse_split
from components.register.gate import Rules
from components.register.registry import check_names
from components.tracking import check_reachable
from model.errors import InputError
from model.vgg import STACKS
from pipelines.parameters import Parameters, with_profile
from pipelines.train import configuration


def prepare(profile: str, given: dict[str, Any]) -> Parameters:
    """The parameters of a local run, with absolute paths, the data's version and the code's.

    Raises InputError for whatever can be seen to be wrong without starting the run.
    """
    parameters = with_profile(profile, given)
    if parameters.data.startswith(SCHEME) and parameters.data_version == LATEST:
        parameters = replace(parameters, data_version=latest_version(parse_remote(parameters.data)))
    check_values(parameters)
    _check_machine(parameters)
    changes: dict[str, Any] = {"git_commit": git_commit()}
    if parameters.data != PHANTOM and not parameters.data.startswith(SCHEME):
        folder = check_folder(Path(parameters.data), parameters.collection).resolve()
        changes["data"] = str(folder)
        # The version is a step's input, so that the cache follows the data.
        changes["data_version"] = parameters.data_version or folder_version(folder)
    stack = Path(parameters.perceptual).resolve() if parameters.perceptual not in STACKS else None
    if stack:
        changes["perceptual"] = str(stack)
    changes["code_version"] = code_version(*([stack] if stack else []))
    return replace(parameters, **changes)


def check_values(p: Parameters) -> None:
    """Raise InputError for a value that no run could take, wherever it runs."""
    parse_strategies(p.strategies)
    Rules.parse(p.gate_measures, p.gate_margin, p.gate_lesions, p.gate_seconds)
    check_names(p.model_name, p.experiment)
    configuration(p)
    check_collection(p.collection, p.data)
    parse_split(p.split, p.collection)
    Preparation(p.size, p.normalise, p.register_pairs)
    if 0 < p.size < p.crop:
        raise InputError(f"crop is {p.crop}, but size brings the images to {p.size}x{p.size}; give a smaller crop")
    if p.data == PHANTOM:
        PhantomConfig(subjects=p.phantom_subjects, slices=p.phantom_slices, seed=p.seed)
    if p.data.startswith(SCHEME):
        check_remote(p.data, p.data_version)
    elif p.data_version == LATEST:
        raise InputError(f"data_version is {LATEST}, which only s3://bucket/prefix has; leave it out for {p.data}")
    elif p.data_version:
        check_version(p.data_version)
    if p.workspace.startswith("s3:"):
        parse_remote(p.workspace)
    for name, value, least in (
        ("processes", p.processes, 1),
        ("min_pairs", p.min_pairs, 1),
        ("checkpoint_every", p.checkpoint_every, 0),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; give at least {least}")
    if not (p.gpus.isascii() and p.gpus.isdecimal()):
        raise InputError(f"gpus is {p.gpus!r}; give a whole number, 0 for none")


def _check_machine(p: Parameters) -> None:
    """Raise InputError for what this machine has not."""
    if p.perceptual not in STACKS and not Path(p.perceptual).is_file():
        raise InputError(f"no feature stack {p.perceptual!r}: give {', '.join(STACKS)}, or a VGG safetensors file")
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        check_reachable(server)
