"""What a model was made of, as one tag: the same data, code and settings give the same tag."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from model.errors import InputError

RECIPE_TAG = "recipe."


def recipe_tag(dataset_version: str, code_version: str, settings: str) -> str:
    """The key of the tag that a version carries which came of this data, code and settings.

    A version may carry several: the same weights that came of other code, say, are not registered twice.
    """
    made_of = json.dumps([dataset_version, code_version, sorted(values(settings).items())])
    return RECIPE_TAG + hashlib.sha256(made_of.encode()).hexdigest()[:16]


def values(settings: str) -> dict[str, Any]:
    """Settings such as {"epochs": 12, "network": "dilran"} by name; numbers as float, since runners write 12 and 12.0.

    Without any, as of a model that no pipeline made, it is empty. Raises InputError for what is no JSON object.
    """
    try:
        read = json.loads(settings or "{}")
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise InputError(
            f"the settings arrived as {settings[:60]!r}, not as the JSON object of the step that notes them"
        )
    return {name: float(value) if type(value) is int else value for name, value in read.items()}
