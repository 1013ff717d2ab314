"""Bodies of requests and answers as models of kfp-server-api, what a network may do, and the tasks of a step."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import kfp_server_api as kfp
from kfp_server_api import models

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The commit of the checkout, as the tests have it."""
_READER = kfp.ApiClient()


@dataclass
class Fault:
    """What the next `times` requests of that method and path get instead of their answer; `after`: it is done, too."""

    method: str
    path: str
    status: int = 0  # 0: the connection is closed without an answer
    body: dict | str = ""
    times: int = 1
    after: bool = False
    hang: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: int = 0) -> None:
        self.status = status
        self.body = {"error": message, "code": code, "message": message, "details": []}


def check_known(data: Any, kind: str, where: str = "") -> None:
    """Refuse a field that the model of that kind does not have, as protojson does."""
    inner = re.match(r"(?:list\[|dict\(str, )(.*)[\])]$", kind)
    if inner:
        values = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in values:
            check_known(value, inner[1], f"{where}.{key}")
        return
    model = getattr(models, kind, None)
    if model is None or not model.openapi_types:
        if model is not None and data not in model.allowable_values:
            raise Refusal(400, f"invalid value for {kind} {where}: {data!r}", 3)
        wanted = {"str": str, "int": int, "bool": bool}.get(kind)
        if wanted and not isinstance(data, wanted):
            raise Refusal(400, f"proto: {where} is {data!r}, not {kind}", 3)
        return
    types = {key: model.openapi_types[name] for name, key in model.attribute_map.items()}
    for key, value in data.items():
        if key not in types:
            raise Refusal(400, f'proto: unknown field "{key}" of {kind}', 3)
        check_known(value, types[key], f"{where}.{key}")


def read(data: Any, kind: str) -> Any:
    check_known(data, kind)
    return _READER._ApiClient__deserialize(data, kind)


def written(model: Any) -> Any:
    return json.loads(json.dumps(_READER.sanitize_for_serialization(model)))


def step(name: str, state: str, start: str = "", end: str = "", error: str = "", executor: str = "") -> list[dict]:
    """The tasks that Kubeflow lists of one step: its driver, itself, and its executor."""
    times = {key: value for key, value in (("start_time", start), ("end_time", end)) if value}
    itself = {
        "task_id": f"{name}-id",
        "display_name": name,
        "state": state,
        "child_tasks": [{"pod_name": f"{name}-pod"}],
    }
    inner = {"task_id": f"{name}-pod", "display_name": "executor", "state": executor or state}
    if error:
        inner["error"] = {"code": 13, "message": error}
    driver = {"task_id": f"{name}-driver-id", "display_name": f"{name}-driver", "state": "SUCCEEDED"}
    return [driver | times, itself | times, inner | times]
