"""Watch a TrainJob to its end: show node 0's log, tell what keeps nodes waiting or made them fail, and say why."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from components.train.cluster import Cluster
from components.train.node_log import NodeLog
from components.train.pods import Failure, failure, has_started, node_of, stuck
from model.errors import InputError

_LAST_LINES_SECONDS = 60.0
_NO_ROOM = {"Unschedulable", "SchedulingGated"}


class JobFailed(InputError):
    """A TrainJob ended without success; the TrainJob is still there for whoever wants to look."""


class JobHopeless(JobFailed):
    """A TrainJob that will not end by itself, or not in time, and should be deleted."""


@dataclass(frozen=True)
class Patience:
    """For how many seconds a job may run (None: any) and a node may wait for its image, or for room in the cluster."""

    deadline: float | None = None
    image: float = 600.0
    room: float = 6 * 3600.0


@dataclass
class JobWatch:
    """One TrainJob on its way; `uid` tells it from another of its name."""

    cluster: Cluster
    name: str
    uid: str
    patience: Patience = Patience()
    _news: "SimpleQueue[tuple[str, Any]]" = field(default_factory=SimpleQueue, init=False)
    _failures: dict[str, Failure] = field(default_factory=dict, init=False)
    _waits: dict[str, "_Wait"] = field(default_factory=dict, init=False)
    _suspended: bool = field(default=False, init=False)

    def to_end(self) -> None:
        """Return when the job is complete. Raises JobFailed, in one line, with the node and the reason if it fails."""
        log, end = NodeLog(self.cluster), self.patience.deadline and time.monotonic() + self.patience.deadline
        log.start()
        self._listen("job", self.cluster.watch_job(self.name))
        self._listen("pods", self.cluster.watch_pods(self.name))
        try:
            while not self._heed(log, end):
                self._check_time(end)
        finally:
            self.cluster.stopped.set()

    def _listen(self, kind: str, changes: Iterator[Any]) -> None:
        def run() -> None:
            try:
                for change in changes:
                    self._news.put((kind, change))
            except Exception as error:
                self._news.put(("error", error))

        threading.Thread(target=run, daemon=True).start()

    def _heed(self, log: NodeLog, end: float | None) -> bool:
        """Take the next news; whether the job is complete."""
        try:
            kind, news = self._news.get(timeout=self._seconds_left(end))
        except Empty:
            return False
        if kind == "error":
            raise news
        if kind == "pods":
            self._see_pods(news, log)
            return False
        return self._see_job(news, log)

    def _see_job(self, job: dict[str, Any] | None, log: NodeLog) -> bool:
        if job is None or job["metadata"]["uid"] != self.uid:
            raise JobFailed(
                f"TrainJob {self.name} was deleted from namespace {self.cluster.namespace} while it ran, not by this "
                "step; run again: it goes on from the last checkpoint"
            )
        conditions = {c["type"]: c for c in job.get("status", {}).get("conditions", ()) if c["status"] == "True"}
        if "Suspended" in conditions and not self._suspended:
            print(f"TrainJob {self.name} is suspended: {conditions['Suspended']['message']}", flush=True)
        self._suspended = "Suspended" in conditions
        if "Complete" in conditions or "Failed" in conditions:
            self._see_pods(self.cluster.pods(self.name), log)
            log.finish(_LAST_LINES_SECONDS)
        if "Failed" in conditions:
            raise JobFailed(f"TrainJob {self.name} failed: {self._reason(conditions['Failed'])}")
        return "Complete" in conditions

    def _see_pods(self, pods: list[dict[str, Any]], log: NodeLog) -> None:
        leading = [pod for pod in pods if node_of(pod) == 0 and has_started(pod)]
        for pod in sorted(leading, key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))):
            log.show(pod)
        for pod in pods:
            uid, failed = pod["metadata"]["uid"], failure(pod)
            if failed and uid not in self._failures:
                print(f"TrainJob {self.name}: {failed.text}", flush=True)
                self._failures[uid] = failed
        self._see_waiting({pod["metadata"]["uid"]: pod for pod in pods if not has_started(pod)})

    def _see_waiting(self, pods: dict[str, dict[str, Any]]) -> None:
        """Say once what each node waits for, and remember since when."""
        found = {uid: (node_of(pod), *why) for uid, pod in pods.items() if (why := stuck(pod))}
        for uid in self._waits.keys() - found.keys():
            del self._waits[uid]
        for uid, (node, reason, message) in found.items():
            if uid not in self._waits:
                print(f"TrainJob {self.name}: node {node} waits: {reason}: {message}", flush=True)
            since = self._waits[uid].since if uid in self._waits else time.monotonic()
            limit = self.patience.room if reason in _NO_ROOM else self.patience.image
            self._waits[uid] = _Wait(since, limit, f"node {node} cannot start: {reason}: {message}")

    def _check_time(self, end: float | None) -> None:
        """Raise JobHopeless if the job has taken too long, or a node waited too long."""
        now = time.monotonic()
        for wait in self._waits.values():
            if now >= wait.since + wait.limit:
                raise JobHopeless(f"TrainJob {self.name}: after {wait.limit:g} s {wait.text}")
        if end is not None and now >= end:
            raise JobHopeless(
                f"TrainJob {self.name} is not complete after {self.patience.deadline:g} s; raise deadline_seconds, and "
                "run again: it goes on from the last checkpoint"
            )

    def _seconds_left(self, end: float | None) -> float | None:
        ends = [wait.since + wait.limit for wait in self._waits.values()] + ([] if end is None else [end])
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _reason(self, condition: dict[str, Any]) -> str:
        """What failed first in the latest attempt, or else what the TrainJob says itself."""
        first = min(self._failures.values(), default=None)
        return first.text if first else f"{condition['reason']}: {condition['message']}"


@dataclass(frozen=True)
class _Wait:
    """A node that cannot start since a moment, and for how many seconds it may."""

    since: float
    limit: float
    text: str
