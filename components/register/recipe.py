"""What a model was made of, as one tag: the same data, code and settings give the same tag."""

from __future__ import annotations

import hashlib
import json
import re

from model.errors import InputError

RECIPE_TAG = "recipe."


def recipe_tag(dataset_version: str, code_version: str, settings: str) -> str:
    """The key of the tag that a version carries which came of this data, code and settings.

    A version may carry several: the same weights that came of other code, say, are not registered twice.
    """
    made_of = json.dumps([dataset_version, code_version, sorted(values(settings).items())])
    return RECIPE_TAG + hashlib.sha256(made_of.encode()).hexdigest()[:16]


def values(settings: str) -> dict[str, float | str]:
    """Settings such as "epochs=12 network=dilran" by name; numbers as such, since runners write 12 and 12.0.

    A value may hold spaces, as paths do. Runners write False and false, too.
    """
    pairs = (part.partition("=") for part in re.split(r" (?=\w+=)", settings) if part)
    return {name: _value(value) for name, _, value in pairs}


def check_filled_in(settings: str) -> None:
    """Raise InputError for settings that a runner did not fill in as a whole, all of which would look the same."""
    if "{{" in settings or not re.match(r"\w+=", settings):
        raise InputError(
            f"the settings arrived as {settings[:60]!r}, not as NAME=VALUE ...; this release of Kubeflow does not fill "
            "in a text of several parameters, so schedule the pipeline training instead"
        )


def _value(text: str) -> float | str:
    if text in ("true", "false"):
        return text.title()
    try:
        return float(text)
    except ValueError:
        return text
