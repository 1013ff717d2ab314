"""The log of node 0 on our own output as it comes, each line once, however often the stream of it is cut."""

import threading
from collections.abc import Callable
from itertools import takewhile
from queue import SimpleQueue
from typing import Any

from components.train.cluster import Cluster
from components.train.pods import has_ended


def _print(line: str) -> None:
    print(line, flush=True)


class NodeLog(threading.Thread):
    """Follows one pod after the other, as restarts of the job bring them."""

    def __init__(self, cluster: Cluster, write: Callable[[str], None] = _print) -> None:
        super().__init__(daemon=True)
        self._cluster, self._write = cluster, write
        self._pods: SimpleQueue[str] = SimpleQueue()
        self._known: set[str] = set()

    def show(self, pod: dict[str, Any]) -> None:
        """Show the log of a pod that has started, unless it is shown already."""
        if pod["metadata"]["uid"] not in self._known:
            self._known.add(pod["metadata"]["uid"])
            self._pods.put(pod["metadata"]["name"])

    def finish(self, seconds: float) -> None:
        """Wait until all is shown of the pods named so far, for so many seconds at most."""
        self._pods.put("")
        self.join(seconds)
        if self.is_alive():
            self._write(f"the end of node 0's log did not come within {seconds:g} s; it may be longer")

    def run(self) -> None:
        """Show the logs of the pods in their order; what cannot be shown is said, and ends no training."""
        while name := self._pods.get():
            try:
                self._follow(name)
            except Exception as error:
                self._write(f"the log of node 0, pod {name}, cannot be shown: {type(error).__name__}: {error}")

    def _follow(self, name: str) -> None:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        shown, pause = _Shown(), self._cluster.pause
        while not self._cluster.stopped.is_set():
            # Asked before the log is: what is written up to the end of a container is then in it.
            pod = self._cluster.find_pod(name)
            if pod is None:
                self._write(f"pod {name} is gone; its log may lack the end")
                return
            ended = has_ended(pod)
            shown.again()
            try:
                for line in self._cluster.log(name, ended):
                    stamp, _, text = line.decode(errors="replace").partition(" ")
                    if shown.is_new(stamp):
                        pause = self._cluster.pause
                        self._write(text)
                if ended:
                    return
            except ApiException as error:
                if error.status in (401, 403):
                    raise
            except (HTTPError, OSError):
                pass
            self._cluster.stopped.wait(pause)
            pause = min(2 * pause, 30.0)


class _Shown:
    """Which lines of one log were shown: those up to a moment, and how many of that moment itself."""

    def __init__(self) -> None:
        self._last = ("", "")
        self._of_last, self._passed = 0, 0

    def again(self) -> None:
        """The log is told from its beginning."""
        self._passed = 0

    def is_new(self, stamp: str) -> bool:
        """Whether the next line, which has that stamp, was not shown before."""
        moment = _moment(stamp)
        if moment < self._last:
            return False
        if moment > self._last:
            self._last, self._of_last, self._passed = moment, 0, 0
        self._passed += 1
        self._of_last, before = max(self._of_last, self._passed), self._of_last
        return self._of_last > before


def _moment(stamp: str) -> tuple[str, str]:
    """A stamp as the container runtime writes it, `2026-01-31T12:00:00.5Z`, so that the later of two is the greater."""
    seconds, _, rest = stamp.partition(".")
    return seconds[:19], "".join(takewhile(str.isdigit, rest)).ljust(9, "0")
