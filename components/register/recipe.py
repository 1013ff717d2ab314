"""What a model was made of, as one tag: the same data, code and settings give the same tag."""

from __future__ import annotations

import hashlib
import json

RECIPE_TAG = "recipe."


def recipe_tag(dataset_version: str, code_version: str, settings: str) -> str:
    """The key of the tag that a version carries which came of this data, code and settings.

    A version may carry several: the same weights that came of other code, say, are not registered twice.
    """
    made_of = json.dumps([dataset_version, code_version, sorted(values(settings).items())])
    return RECIPE_TAG + hashlib.sha256(made_of.encode()).hexdigest()[:16]


def values(settings: str) -> dict[str, float | str]:
    """Settings such as "epochs=12 network=dilran" by name; numbers as such, since runners write 12 and 12.0."""
    pairs = (part.partition("=") for part in settings.split(" ") if part)
    return {name: _number(value) for name, _, value in pairs}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
