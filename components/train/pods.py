"""What the status of a training node's pod means: which node it is, why it failed, what it waits for."""

import re
from dataclasses import dataclass
from typing import Any

_RANK = "batch.kubernetes.io/job-completion-index"
_ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"
_STUCK = {
    *("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"),
    *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
}
_ERROR = re.compile(r"(\w+\.)*\w*(Error|Exception|Exit)\b.*")
_OF_A_PEER = re.compile(r"peer|Connection (closed|reset|refused)|NCCL|gloo|TCPStore|rendezvous", re.IGNORECASE)
_LONGEST = 300


@dataclass(frozen=True, order=True)
class Failure:
    """Why a node failed, in one line; what made the others fail in the latest attempt sorts first.

    Kubernetes tells moments in whole seconds, so what a failure looks like counts before them: 0 for what can hardly be
    the consequence of another node's, 2 for what looks like it.
    """

    earlier: int
    consequence: int
    when: str
    text: str


def node_of(pod: dict[str, Any]) -> int:
    """The node's number, 0 for the one that leads."""
    metadata = pod["metadata"]
    return int((metadata.get("labels", {}) | metadata.get("annotations", {})).get(_RANK, 0))


def has_started(pod: dict[str, Any]) -> bool:
    """Whether the container runs or has run, so that there is a log."""
    return bool({"running", "terminated"} & _state(pod).keys())


def has_ended(pod: dict[str, Any]) -> bool:
    """Whether nothing will be added to the log."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed") or "terminated" in _state(pod)


def failure(pod: dict[str, Any]) -> Failure | None:
    """Why the node failed; None if it has not."""
    status, ended = pod.get("status", {}), _state(pod).get("terminated", {})
    if status.get("phase") != "Failed" and not ended.get("exitCode"):
        return None
    disrupted = next((c for c in _conditions(pod) if c["type"] == "DisruptionTarget" and c["status"] == "True"), {})
    reasons = (status.get("reason"), disrupted.get("reason"), ended.get("reason"))
    reason = next((found for found in reasons if found and found != "Error"), "failed")
    code = f", exit code {ended['exitCode']}" if ended.get("exitCode") else ""
    said = status.get("message") or disrupted.get("message") or _last_words(ended.get("message", ""))
    advice = _advice(reason, ended.get("exitCode", 0))
    return Failure(
        -int(pod["metadata"].get("labels", {}).get(_ATTEMPT, 0)),
        0 if reason != "failed" or ended.get("exitCode") == 2 else 2 if _OF_A_PEER.search(said) else 1,
        ended.get("finishedAt") or disrupted.get("lastTransitionTime") or "",
        f"node {node_of(pod)}: {reason}{code}{advice}" + (f": {said}" if said else ""),
    )


def stuck(pod: dict[str, Any]) -> tuple[str, str] | None:
    """The reason and the message of what keeps a pod from starting; None if it is on its way."""
    waiting = _state(pod).get("waiting", {})
    if waiting.get("reason") in _STUCK:
        return waiting["reason"], waiting.get("message", "")
    for condition in _conditions(pod):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), condition.get("message", "")
    return None


def _advice(reason: str, code: int) -> str:
    if reason == "OOMKilled" or (reason == "failed" and code == 137):
        return " (out of memory: raise memory_per_node, or lower the batch)"
    return ""


def _last_words(log: str) -> str:
    """Of the end of a log, the line that names the error, or else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR.match(line)]
    inputs = [line for line in named if line.startswith("InputError")]
    return next(iter((inputs or named or lines)[-1:]), "")[:_LONGEST]


def _state(pod: dict[str, Any]) -> dict[str, Any]:
    for container in pod.get("status", {}).get("containerStatuses", ()):
        if container["name"] == "node":
            return dict(container.get("state", {}))
    return {}


def _conditions(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return list(pod.get("status", {}).get("conditions", ()))
