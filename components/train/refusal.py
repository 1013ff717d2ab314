"""What a refusal by the Kubernetes API means to whoever runs the pipeline, in one line."""

import json
import re
from typing import Any

from model.errors import InputError

_LONGEST = 600
_RIGHTS = re.compile(r"cannot \w+ resource")


class ClusterError(InputError):
    """The cluster refuses or cannot be had; `about_object` unless it knows not even the kind of what was asked for."""

    about_object: bool = True


def refused(error: Any, verb: str, resource: str, namespace: str, host: str) -> ClusterError:
    """The line for kubernetes' ApiException, after an attempt to `verb` `resource` in `namespace`."""
    status = _status(error.body)
    message = str(status.get("message") or error.reason or "")[:_LONGEST]
    if error.status == 401:
        return ClusterError(
            f"{host} does not accept the credentials (401, asked to {verb} {resource} in namespace {namespace}); run "
            "the step with a service account of that namespace, or renew the kubeconfig"
        )
    if error.status == 403 and (not status or _RIGHTS.search(message)):
        return ClusterError(
            f"this service account may not {verb} {resource} in namespace {namespace} (403); apply infra/training "
            "there and bind its Role fusion-trainjobs to the service account that runs the pipeline"
        )
    if error.status == 404 and not status.get("details", {}).get("name"):
        absent = ClusterError(
            f"{host} knows no {resource} (404): Kubeflow Trainer 2 is not installed there; have its administrator "
            "install it, or train on one node"
        )
        absent.about_object = False
        return absent
    if error.status in (400, 403, 404, 409, 422):
        return ClusterError(
            f"the cluster refuses to {verb} {resource} in namespace {namespace} ({error.status}): {message}"
        )
    return ClusterError(f"{host} answered {error.status} to {verb} {resource} in {namespace}: {message}")


def _status(body: Any) -> dict[str, Any]:
    """The Status object of an answer; empty if the answer holds none."""
    try:
        status = json.loads(body)
    except (TypeError, ValueError):
        return {}
    return status if isinstance(status, dict) and status.get("kind") == "Status" else {}
