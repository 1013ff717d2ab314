"""Fail, so that an alert fires, if the champion of a model was registered more than DAYS ago, or there is none.

MODEL_NAME names the model in the registry of MLFLOW_TRACKING_URI.
"""

import os
import sys
from datetime import UTC, datetime

from components.register.catalogue import Version, choose, models, versions
from components.tracking import connected
from model.errors import InputError


def days_since(version: Version) -> float:
    """How long ago it was registered."""
    return (datetime.now(UTC) - datetime.fromisoformat(version.created)).total_seconds() / 86400


def main() -> int:
    """Exit code: 0 for a champion young enough, 1 for one that is too old, 2 if it cannot be told."""
    name, allowed = os.environ["MODEL_NAME"], float(os.environ["DAYS"])
    try:
        with connected("") as client:
            champion = choose(client, f"models:/{name}@champion")
            newest = versions(client, models(client, name)[0])[-1]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for word, version in (("champion", champion), ("newest", newest)):
        print(f"{name}: {word} is version {version.number}, registered {days_since(version):.1f} days ago")
    if days_since(champion) <= allowed:
        return 0
    why = "the gate refuses what comes" if days_since(newest) <= allowed else "nothing new is registered"
    print(f"{name}: no new champion in {allowed:g} days: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
