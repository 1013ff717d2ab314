"""A Kubernetes API server for the few resources that training on several nodes asks for, over real sockets.

Objects of users are held against Kubeflow Trainer's schema. Whatever a controller, a scheduler or a kubelet would do, a
test does by the methods; what a network or an administrator would do, by `faults`.
"""

import json
import re
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jsonschema

SCHEMA = json.loads((Path(__file__).parent / "trainjob.schema.json").read_text())
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
ANY = ".*"
LONG = 300.0
"""Seconds after which a test that hangs goes on, and fails."""
PODS = "/api/v1/namespaces/team/pods"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Cut(Exception):
    """The connection is closed in the middle of an answer."""


@dataclass
class Fault:
    """What the next `times` requests of that method and path get instead of their answer."""

    method: str
    path: str
    status: int = 0  # 0: no answer as long as the client waits
    body: dict | str = ""
    times: int = 1
    watch: bool = False


def refusal(status: int, reason: str, message: str, name: str = "") -> dict:
    details = {"details": {"name": name}} if name else {}
    return {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message} | details


FORBIDDEN = refusal(
    403,
    "Forbidden",
    'trainjobs.trainer.kubeflow.org is forbidden: User "system:serviceaccount:team:pipeline-runner" cannot create '
    'resource "trainjobs" in API group "trainer.kubeflow.org" in the namespace "team"',
)


@dataclass
class ApiServer:
    """`on_create` is what happens to a TrainJob, in a thread of its own."""

    on_create: Callable[[dict], None] = lambda job: None
    objects: dict[str, dict[str, dict]] = field(default_factory=lambda: {JOBS: {}, PODS: {}})
    history: list[tuple[int, str, str, dict]] = field(default_factory=list)
    logs: dict[str, list[bytes]] = field(default_factory=dict)
    cut_logs: list[int] = field(default_factory=list)  # bytes after which the next streams of a log are cut
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    closing: threading.Event = field(default_factory=threading.Event)
    may_go: threading.Event = field(default_factory=threading.Event)  # clear: what is deleted stays for a while
    version: int = 100
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_go.set()
        handler = type("Bound", (Handler,), {"api": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.closing.set()
        with self.changed:
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()

    def until(self, condition: Callable[[], object]) -> None:
        """Return once a request or a change of the objects has made the condition true."""
        with self.changed:
            assert self.changed.wait_for(condition, LONG)

    def asked(self, method: str, path: str) -> int:
        return sum(1 for asked, where in self.requests if asked == method and re.fullmatch(path, where))

    # Objects

    def put(self, kind: str, thing: dict, event: str = "MODIFIED") -> dict:
        with self.changed:
            self.version += 1
            thing["metadata"]["resourceVersion"] = str(self.version)
            self.objects[kind][thing["metadata"]["name"]] = thing
            self.history.append((self.version, kind, event, json.loads(json.dumps(thing))))
            self.changed.notify_all()
        return thing

    def remove(self, kind: str, name: str) -> None:
        with self.changed:
            self.version += 1
            thing = self.objects[kind].pop(name)
            thing["metadata"]["resourceVersion"] = str(self.version)
            self.history.append((self.version, kind, "DELETED", thing))
            self.changed.notify_all()

    def create(self, job: dict) -> dict:
        job["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "namespace": "team"}
        self.put(JOBS, job, "ADDED")
        threading.Thread(target=self._happen, args=(job,), daemon=True).start()
        return job

    def _happen(self, job: dict) -> None:
        try:
            self.on_create(job)
        except BaseException as error:
            self.errors.append(error)

    def delete(self, name: str) -> None:
        job = self.objects[JOBS][name]
        job["metadata"]["deletionTimestamp"] = now()
        self.put(JOBS, job)
        threading.Thread(target=self._collect, args=(name,), daemon=True).start()

    def _collect(self, name: str) -> None:
        self.may_go.wait(LONG)
        for pod in [p for p, thing in self.objects[PODS].items() if thing["metadata"]["name"].startswith(name)]:
            self.remove(PODS, pod)
        self.remove(JOBS, name)

    # What a cluster does

    def add_pod(self, job: str, node: int, attempt: int = 0) -> str:
        name = f"{job}-node-0-{node}-{uuid.uuid4().hex[:5]}"
        labels = {
            "jobset.sigs.k8s.io/jobset-name": job,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "jobset.sigs.k8s.io/restart-attempt": str(attempt),
            "batch.kubernetes.io/job-completion-index": str(node),
        }
        metadata = {"name": name, "uid": str(uuid.uuid4()), "labels": labels, "creationTimestamp": now()}
        self.logs[name] = []
        self.put(PODS, {"metadata": metadata, "spec": {}, "status": {"phase": "Pending"}}, "ADDED")
        return name

    def set_pod(self, name: str, phase: str, state: dict | None = None, **status) -> None:
        containers = {"containerStatuses": [{"name": "node", "state": state}]} if state else {}
        pod = self.objects[PODS][name]
        pod["status"] = {"phase": phase} | containers | status
        self.put(PODS, pod)

    def run_pod(self, name: str) -> None:
        self.set_pod(name, "Running", {"running": {"startedAt": now()}})

    def end_pod(self, name: str, code: int = 0, reason: str = "", message: str = "") -> None:
        ended = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "finishedAt": now()}
        self.set_pod(name, "Failed" if code else "Succeeded", {"terminated": ended | {"message": message}})

    def set_condition(self, job: str, kind: str, reason: str = "JobsFailed", message: str = "jobset failed") -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        thing = self.objects[JOBS][job]
        thing["status"] = {"conditions": [condition]}
        jsonschema.validate(thing, SCHEMA)
        self.put(JOBS, thing)

    def write_log(self, pod: str, line: str, stamp: str = "") -> None:
        stamp = stamp or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        with self.changed:
            self.logs[pod].append(f"{stamp} {line}\n".encode())
            self.changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ApiServer

    def log_message(self, *args) -> None:
        pass

    def _serve(self, method: str) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.api.changed:
            self.api.requests.append((method, parts.path))
            self.api.changed.notify_all()
        fault = self._fault(method, parts.path)
        with suppress(ConnectionError):
            try:
                if fault and not fault.status:
                    self.api.closing.wait(LONG)
                    raise Cut
                if fault:
                    self._answer(fault.status, fault.body)
                else:
                    self._route(method, parts.path, json.loads(body or "{}"))
            except Cut:
                self.close_connection = True

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _fault(self, method: str, path: str) -> Fault | None:
        watching = self.query.get("watch") == "True"
        for fault in self.api.faults:
            if fault.method == method and re.fullmatch(fault.path, path) and fault.times and fault.watch == watching:
                fault.times -= 1
                return fault
        return None

    def _answer(self, status: int, body: dict | str) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _route(self, method: str, path: str, body: dict) -> None:
        if method == "GET" and path.endswith("/log"):
            return self._log(path.split("/")[-2])
        kind, name = (path, "") if path in self.api.objects else path.rsplit("/", 1)
        if kind not in self.api.objects:
            return self._answer(404, "404 page not found\n")
        if method == "POST":
            return self._create(body)
        if not name:
            return self._watch(kind) if self.query.get("watch") == "True" else self._list(kind)
        found = self.api.objects[kind].get(name)
        if not found:
            return self._answer(404, refusal(404, "NotFound", f'"{name}" not found', name))
        if method == "DELETE":
            return self._delete(found, body)
        return self._answer(200, found)

    def _create(self, job: dict) -> None:
        name = job["metadata"]["name"]
        try:
            jsonschema.validate(job, SCHEMA)
        except jsonschema.ValidationError as error:
            return self._answer(422, refusal(422, "Invalid", error.message, name))
        if name in self.api.objects[JOBS]:
            return self._answer(409, refusal(409, "AlreadyExists", f'"{name}" already exists', name))
        return self._answer(201, self.api.create(job))

    def _delete(self, job: dict, options: dict) -> None:
        if options["preconditions"]["uid"] != job["metadata"]["uid"]:
            return self._answer(409, refusal(409, "Conflict", "the UID in the precondition", job["metadata"]["name"]))
        assert options["propagationPolicy"] == "Foreground"
        self.api.delete(job["metadata"]["name"])
        return self._answer(200, job)

    def _selects(self, thing: dict) -> bool:
        wanted = [term.split("=") for term in self.query.get("labelSelector", "").split(",") if term]
        labels, name = thing["metadata"].get("labels", {}), thing["metadata"]["name"]
        by_name = self.query.get("fieldSelector", f"metadata.name={name}") == f"metadata.name={name}"
        return by_name and all(labels.get(key) == value for key, value in wanted)

    def _list(self, kind: str) -> None:
        with self.api.changed:
            items = [thing for thing in self.api.objects[kind].values() if self._selects(thing)]
            page = {"metadata": {"resourceVersion": str(self.api.version)}, "items": items}
            content = json.dumps(page)
        self._answer(200, json.loads(content))

    def _chunks(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def _watch(self, kind: str) -> None:
        seen = int(self.query["resourceVersion"])
        self._chunks()
        while not self.api.closing.is_set():
            with self.api.changed:
                news = [entry for entry in self.api.history if entry[0] > seen]
                if not news:
                    self.api.changed.wait(LONG)
                    continue
            for version, of, event, thing in news:
                seen = version
                if of == kind and self._selects(thing):
                    self._chunk(json.dumps({"type": event, "object": thing}).encode() + b"\n")
        raise Cut

    def _log(self, pod: str) -> None:
        if pod not in self.api.objects[PODS]:
            return self._answer(404, refusal(404, "NotFound", f'pods "{pod}" not found', pod))
        with self.api.changed:
            left = self.api.cut_logs.pop(0) if self.api.cut_logs else None
            self.api.changed.notify_all()
        self._chunks()
        sent = 0
        while not self.api.closing.is_set():
            with self.api.changed:
                lines = self.api.logs[pod][sent:]
                gone = pod not in self.api.objects[PODS]
                if not lines and (gone or self.api.objects[PODS][pod]["status"]["phase"] in ("Succeeded", "Failed")):
                    return self.wfile.write(b"0\r\n\r\n")
                if not lines:
                    self.api.changed.wait(LONG)
                    continue
            for line in lines:
                if left is not None and len(line) >= left:
                    self._chunk(line[:left])
                    raise Cut
                left = left and left - len(line)
                self._chunk(line)
                sent += 1
        raise Cut
