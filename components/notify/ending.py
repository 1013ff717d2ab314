"""What is told of a run of the pipeline when it has ended, and to whom: the webhook in ATLAS_FUSION_WEBHOOK."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.change.decision import last_look
from components.register.aliases import GATE_TAG, LAST_RUN_TAG
from components.register.record import RUN_VARIABLE
from components.register.webhook import WEBHOOK_VARIABLE, for_slack, post
from components.tracking import connected, shown, sqlite_path
from model.errors import one_line, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

SUCCEEDED = ("SUCCEEDED", "COMPLETE", "CACHED")
"""What a group of steps that succeeded is called: the first by the SDK, the others by Kubeflow's store of metadata."""
UNTOLD = ("RUNNING", "NEW", "UNKNOWN", "")
"""What it is called where the back end has not noted its end, which it does not do for every kind of group."""
_LONGEST = 500


@dataclass(frozen=True)
class Ending:
    """How a run ended: `event` is run_failed, run_succeeded or nothing_new, `outcome` says it in words.

    `version` is the one that the run registered, "" without one.
    """

    event: str
    outcome: str
    version: str = ""

    def payload(self, model_name: str, run: str, tracking_uri: str) -> dict[str, Any]:
        """What is posted: `text` for people, as Slack reads it, and the same as fields for programs."""
        return {
            "text": for_slack(self.line(model_name, run)),
            "event": self.event,
            "model": model_name,
            "run": run,
            "version": self.version,
            "outcome": self.outcome,
            "tracking_uri": shown(tracking_uri),
        }

    def line(self, model_name: str, run: str) -> str:
        """The same in one line."""
        return f"{model_name}, run {run}: {self.outcome}"


def tell(state: str, message: str, model_name: str, pipeline_run: str, tracking_uri: str = "") -> None:
    """Print how a run ended, and post it where a webhook is named.

    `state` is the one that Kubeflow gives the steps as a whole, `message` its error. Nothing is raised: the run
    has ended, well or badly, whether or not anybody hears of it.
    """
    run = os.environ.get(RUN_VARIABLE) or pipeline_run
    url = os.environ.get(WEBHOOK_VARIABLE, "").strip()
    if not url:
        print(f"{model_name}, run {run}: {state.lower()}; {WEBHOOK_VARIABLE} names nobody to tell", flush=True)
        return
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    ending = _ending(state, message, model_name, run, uri)
    print(one_line(ending.line(model_name, run)), flush=True)
    if why := post(url, ending.payload(model_name, run, uri)):
        print(f"webhook not told ({why}); see {WEBHOOK_VARIABLE}", file=sys.stderr, flush=True)


def _ending(state: str, message: str, model_name: str, run: str, uri: str) -> Ending:
    if state not in SUCCEEDED + UNTOLD:
        why = f": {without_credentials(one_line(message))[:_LONGEST]}" if message else ""
        return Ending("run_failed", f"{state.lower()}{why}")
    database, more = sqlite_path(uri), ""
    try:
        if uri and not (database and not database.exists()):
            with connected(uri) as client:
                if left := _left(client, model_name, run):
                    return left
                more = ", and registered no new version"
    except Exception as error:
        print(f"the registry could not be asked what came of the run: {one_line(str(error))}", flush=True)
    # Of an end that nobody noted, rather the bad news.
    if state in UNTOLD:
        return Ending("run_failed", f"Kubeflow did not note its end ({state.lower() or 'no state'}){more}; look at it")
    return Ending("run_succeeded", f"succeeded{more}")


def _left(client: MlflowClient, model_name: str, run: str) -> Ending | None:
    """What a run left in the registry: a version, or a reason for none; None for neither."""
    if why := last_look(client, model_name, run):
        return Ending("nothing_new", f"nothing new, no training: {why}")
    of_model = f"name = '{model_name}' AND tags"
    made = [
        v for tag in ("pipeline_run", LAST_RUN_TAG) for v in client.search_model_versions(f"{of_model}.{tag} = '{run}'")
    ]
    if not made:
        return None
    version = max(made, key=lambda each: int(each.version))
    if GATE_TAG not in version.tags:
        word = f"version {version.version} was registered, but the gate did not decide; run the pipeline again"
        return Ending("run_failed", word, str(version.version))
    why = version.tags.get(f"{GATE_TAG}_reason", "")
    word = f"version {version.version} {version.tags[GATE_TAG]}" + (f": {why}" if why else "")
    return Ending("run_succeeded", word, str(version.version))
