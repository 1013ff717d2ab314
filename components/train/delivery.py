"""Bringing a training's journal into its MLflow run, each point once."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.tracking import RUN_FILE, experiment_id, find_run, latest_steps, noted_run, shown
from components.train.journal import JOURNAL_FILE, Event, State, read_events, write_whole
from model.errors import one_line, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

METRICS_A_REQUEST = 1000
KEY_TAG = "atlas-fusion.live"
PREVIEW = 256  # side in pixels of the small picture that MLflow shows in a series


class Deliverer:
    """Reads the journal of `folder` and sends it, keeping on disk how far it came.

    What is sent twice is there once: MLflow takes a metric of the same key, step, time and value as the same point, and
    an image has the same file name. A point at a step that its series has already, from an earlier attempt, is left
    out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.state = folder, folder / JOURNAL_FILE, State.read(folder)
        self._opened = False
        self._gone = ""
        self._refused: set[str] = set()

    def open(self, client: MlflowClient) -> None:
        """Find the run that `mlflow_run.json` names, or make one; once."""
        if self._opened:
            return
        noted = noted_run(self.folder)
        run = find_run(client, noted) if noted else None
        if noted and run is None and self._gone != noted:
            self._gone = noted
            _say(f"MLflow {shown(client.tracking_uri)} has no run {noted}, or it is deleted: a new one gets everything")
            self.state = State()
        elif run and noted != self.state.run_id:
            self.state = State()
        if run is None:
            run = self._create(client)
        else:
            self._take_up(client, run)
        self.state.run_id = run.info.run_id
        self.state.write(self.folder)
        about = {
            "run_id": run.info.run_id,
            "experiment": client.get_experiment(run.info.experiment_id).name,
            "tracking_uri": shown(client.tracking_uri),
        }
        write_whole(self.folder / RUN_FILE, json.dumps(about, indent=2) + "\n")
        self._opened = True

    def waiting(self) -> bool:
        """Whether the journal holds more than was sent."""
        return any(True for _ in read_events(self.folder, self.state.offset))

    def deliver(self, client: MlflowClient) -> bool:
        """Send the next batch of metrics, or the next image or status; whether more may be waiting already."""
        before = replace(self.state, steps=dict(self.state.steps))
        metrics, end, more, other = self._next()
        if end == before.offset:
            return False
        try:
            self._log_metrics(client, metrics)
            if "image" in other:
                self._log_image(client, other)
            elif "status" in other:
                self._set_status(client, other)
        except Exception:
            self.state = before
            raise
        self.state.offset = end
        self.state.write(self.folder)
        return more

    def _next(self) -> tuple[list[Metric], int, bool, Event]:
        """The metrics that come next, or else the one other event, with the offset after them, and if there is more."""
        metrics: list[Metric] = []
        end = self.state.offset
        for event, after in read_events(self.folder, end):
            if "metrics" not in event:
                return (metrics, end, True, {}) if end > self.state.offset else ([], after, True, event)
            metrics += _new_metrics(event, self.state.steps)
            end = after
            if len(metrics) >= METRICS_A_REQUEST:
                return metrics, end, True, {}
        return metrics, end, False, {}

    def abandon(self, client: MlflowClient, session: str) -> None:
        """Mark the run as KILLED unless another attempt has begun since `session`."""
        begun = [event.get("session", "") for event, _ in read_events(self.folder, 0) if "status" in event]
        if begun[-1:] == [session]:
            client.set_terminated(self.state.run_id, "KILLED")

    def _create(self, client: MlflowClient) -> Run:
        from mlflow.tracking.context.registry import resolve_tags

        attempts = [event for event, _ in read_events(self.folder, 0) if event.get("status") == "RUNNING"]
        begin = attempts[-1]
        experiment = experiment_id(client, begin["experiment"])
        # The key is on disk first: if MLflow makes the run and its answer is lost, the next try finds it.
        if self.state.key:
            found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{self.state.key}'", max_results=1)
        else:
            found, self.state.key = [], uuid.uuid4().hex
            self.state.write(self.folder)
        if found:
            return found[0]
        tags = resolve_tags({"mlflow.source.name": "components.train"} | begin["tags"] | {KEY_TAG: self.state.key})
        return client.create_run(experiment, attempts[0]["t"], tags, begin["name"])

    def _take_up(self, client: MlflowClient, run: Run) -> None:
        """Learn from MLflow which steps it has: the state on disk may be gone, or older than the last batch."""
        for key, step in latest_steps(run.data).items():
            self.state.steps[key] = max(step, self.state.steps.get(key, step))
        for file in client.list_artifacts(run.info.run_id, "images"):
            name, _, rest = Path(file.path).name.partition("+step+")
            if rest:
                key, step = f"image:{name}", int(rest.partition("+")[0])
                self.state.steps[key] = max(step, self.state.steps.get(key, step))

    def _log_metrics(self, client: MlflowClient, metrics: list[Metric]) -> None:
        known = [metric for metric in metrics if metric.key not in self._refused]
        self.state.lost += len(metrics) - len(known)
        for chunk in _chunks(known):
            self._log_chunk(client, chunk)

    def _log_chunk(self, client: MlflowClient, metrics: list[Metric]) -> None:
        """Send the metrics; where MLflow takes their content ill, halve them until the one that it means is alone."""
        try:
            client.log_batch(self.state.run_id, metrics)
        except Exception as error:
            if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE" or not find_run(client, self.state.run_id):
                raise
            if len(metrics) > 1:
                half = len(metrics) // 2
                self._log_chunk(client, metrics[:half])
                self._log_chunk(client, metrics[half:])
                return
            self._refuse(metrics[0].key, error)
        else:
            self.state.sent += len(metrics)

    def _log_image(self, client: MlflowClient, event: Event) -> None:
        """Send an image as `MlflowClient.log_image` would, but under a name that is the same at every try."""
        series, steps = event["image"].replace("/", "~"), self.state.steps
        if event["step"] <= steps.get(f"image:{series}", event["step"] - 1):
            return
        from PIL import Image

        unique = uuid.uuid5(uuid.NAMESPACE_URL, event["file"])
        stem = f"{series}+step+{event['step']}+timestamp+{event['t']}+{unique}"
        with tempfile.TemporaryDirectory() as aside:
            try:
                image = Image.open(self.folder / event["file"])
                image.save(Path(aside) / f"{stem}.png")
                image.thumbnail((PREVIEW, PREVIEW))
                image.save(Path(aside) / f"{stem}+compressed.webp")
            except (OSError, ValueError) as error:
                self._refuse(event["image"], error)
                return
            for file in sorted(Path(aside).iterdir()):
                client.log_artifact(self.state.run_id, str(file), "images")
        client.set_tag(self.state.run_id, "mlflow.loggedImages", True)
        steps[f"image:{series}"] = event["step"]
        self.state.sent += 1

    def _set_status(self, client: MlflowClient, event: Event) -> None:
        if event["status"] != "RUNNING":
            client.set_terminated(self.state.run_id, event["status"], event["t"])
            return
        client.update_run(self.state.run_id, "RUNNING")
        there = client.get_run(self.state.run_id).data.params
        for name, value in event["parameters"].items():
            if name not in there:
                try:
                    client.log_param(self.state.run_id, name, value)
                except Exception as error:
                    if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                        raise
                    _say(f"MLflow refuses the parameter {name!r}: {error}")

    def _refuse(self, name: str, error: Exception) -> None:
        self._refused.add(name)
        self.state.lost += 1
        _say(f"MLflow does not take {name!r}, which is lost, the rest goes on: {error}")


def _new_metrics(event: Event, steps: dict[str, int]) -> list[Metric]:
    """The metrics of an event that are later than the `steps` of their series, which they move on."""
    from mlflow.entities import Metric

    fresh = []
    for key, value in event["metrics"].items():
        if event["step"] > steps.get(key, event["step"] - 1):
            fresh.append(Metric(key, value, event["t"], event["step"]))
            steps[key] = event["step"]
    return fresh


def _chunks(metrics: list[Any]) -> Iterator[list[Any]]:
    left = iter(metrics)
    while chunk := list(islice(left, METRICS_A_REQUEST)):
        yield chunk


def _say(line: str) -> None:
    os.write(2, f"{without_credentials(one_line(line))[:500]}\n".encode())
