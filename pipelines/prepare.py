"""Fill in what a local run knows about itself: absolute paths, the data's version, the code's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from components.ingest.dataset import PHANTOM, check_folder
from components.ingest.version import folder_version
from model.errors import InputError
from model.strategies import STRATEGIES
from pipelines.code import code_version, git_commit
from pipelines.parameters import Parameters, with_profile


def prepare(profile: str, given: dict[str, Any]) -> Parameters:
    """The parameters of a local run, checked as far as can be without starting it.

    Raises InputError for a profile, folder or strategy that does not exist.
    """
    parameters = with_profile(profile, given)
    for strategy in parameters.strategies.split(","):
        if strategy.strip() not in STRATEGIES:
            raise InputError(f"unknown fusion strategy {strategy.strip()!r}; choose from {', '.join(STRATEGIES)}")
    changes: dict[str, Any] = {"code_version": code_version(), "git_commit": git_commit()}
    if parameters.data != PHANTOM:
        folder = check_folder(Path(parameters.data)).resolve()
        changes["data"] = str(folder)
        # The version is a step's input, so that the cache follows the data.
        changes["data_version"] = parameters.data_version or folder_version(folder)
    if (perceptual := Path(parameters.perceptual)).is_file():
        changes["perceptual"] = str(perceptual.resolve())
    return replace(parameters, **changes)
