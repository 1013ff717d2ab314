"""A Kubeflow Pipelines 2.17 API server over real sockets, as far as the command line asks it.

Bodies are read into the models of kfp-server-api, unknown fields refused, and answers are written from them. Users
have tokens, sessions of a Dex login, and namespaces. What a cluster does with a run, a test does by `play`; what a
network or an administrator does, by `faults`.
"""

import json
import re
import ssl
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from kfp_server_api import models
from login_pages import LoginPages
from wire import Fault, Refusal, read, written

LONG = 300.0
API = "/apis/v2beta1"
_QUERIES = {"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """Say nothing of a client that leaves, as one does that does not trust the certificate."""


@dataclass
class KfpServer:
    """`users` are the namespaces of each user, `tokens` and `passwords` theirs; without users all may do all."""

    users: dict[str, set[str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    login: str = ""  # "dex", "proxy" (oauth2-proxy before Dex), "sign-in" (with its own page), or "" (401)
    approval: bool = False
    only_v1: bool = False
    page_size: int = 100
    certificate: str = ""
    port: int = 0
    on_run: Callable[[Any], None] = lambda run: None
    on_look: Callable[[Any], None] = lambda run: None  # after somebody has looked at a run
    pipelines: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    experiments: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    history: list[list[tuple[str, bool]]] = field(default_factory=list)  # schedules and whether they run, each change
    errors: list[BaseException] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    clock: datetime = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.server = _Server(("127.0.0.1", self.port), type("Bound", (Handler,), {"api": self}))
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def notice(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def until(self, condition: Callable[[], object]) -> bool:
        """Wait until a request that is left without an answer has made the condition true."""
        with self.changed:
            return bool(self.changed.wait_for(condition, LONG))

    def asked(self, method: str, path: str) -> int:
        return sum(1 for one, where in self.requests if one == method and re.fullmatch(f"{API}{path}", where))

    def now(self) -> str:
        self.clock += timedelta(seconds=1)
        return self.clock.isoformat().replace("+00:00", "Z")

    @property
    def active(self) -> list[str]:
        return [each.recurring_run_id for each in self.schedules.values() if each.status == "ENABLED"]

    def note(self) -> None:
        self.history.append([(each.recurring_run_id, each.status == "ENABLED") for each in self.schedules.values()])

    def play(self, run_id: str, state: str, *tasks: dict, error: str = "", finished: str = "") -> None:
        """What has become of a run: its state and its tasks as Kubeflow lists them."""
        run = self.runs[run_id]
        run.state = state
        run.finished_at = finished or "1970-01-01T00:00:00Z"
        run.error = models.GoogleRpcStatus(code=2, message=error) if error else None
        details = [read({"run_id": run_id, **task}, "V2beta1PipelineTaskDetail") for task in tasks]
        run.run_details = models.V2beta1RunDetails(task_details=details)


class Handler(LoginPages):
    protocol_version = "HTTP/1.1"
    api: KfpServer

    def log_message(self, *args) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.api.lock:
            self.api.requests.append((self.command, parts.path))
            self.api.headers.append(dict(self.headers))
            fault = self._fault(parts.path)
        try:
            self._answer_or_fail(fault, parts.path)
        except (ConnectionError, ssl.SSLError):
            self.close_connection = True
        except BaseException as error:
            self.api.errors.append(error)
            raise

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def _fault(self, path: str) -> Fault | None:
        for fault in self.api.faults:
            if fault.method == self.command and re.fullmatch(fault.path, path) and fault.times:
                fault.times -= 1
                return fault
        return None

    def _answer_or_fail(self, fault: Fault | None, path: str) -> None:
        if fault and fault.after:
            self._route(path)
        if fault is None:
            try:
                answer = self._gate(path) or self._route(path)
            except Refusal as refusal:
                self._send(refusal.status, refusal.body)
                return
            if answer is not True:
                self._send(200, answer)
        elif fault.hang:
            self.api.notice()
            self.api.closing.wait(LONG)
            self.close_connection = True
        elif not fault.status:
            self.close_connection = True
            self.connection.shutdown(2)
        else:
            self._send(fault.status, fault.body, fault.headers)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        page = isinstance(body, str) and body.lstrip().startswith("<")
        kind = "text/html; charset=utf-8" if page else "text/plain" if isinstance(body, str) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    # The API

    def _allow(self, namespace: str | None) -> None:
        if not self.api.users:
            return
        if not namespace:
            raise Refusal(400, "Invalid input error: a namespace is required in multi-user mode", 3)
        if namespace not in self.api.users[self.user or ""]:
            told = f"User '{self.user}' is not authorized with reason: (request: namespace {namespace})"
            raise Refusal(403, f"PermissionDenied: {told}", 7)

    def _route(self, path: str) -> Any:
        if path == "/":
            return {"page": "dashboard"}
        if path == "/apis/v1beta1/healthz":
            return {"commit_sha": "abc", "multi_user": False}
        if self.api.only_v1 or not path.startswith(f"{API}/"):
            raise Refusal(404, "Not Found", 5)
        where, _, verb = path.removeprefix(f"{API}/").partition(":")
        kind, *rest = [unquote(part) for part in where.split("/")]
        with self.api.lock:
            return getattr(self, f"_{kind}")(rest, verb)

    def _healthz(self, rest: list[str], verb: str) -> Any:
        return written(models.V2beta1GetHealthzResponse(multi_user=bool(self.api.users)))

    def _page(self, things: list[Any], key: str, answer: Any) -> Any:
        unknown = set(self.query) - _QUERIES
        assert not unknown, unknown
        wanted = read(json.loads(self.query.get("filter") or "{}"), "V2beta1Filter").predicates or []
        for predicate in wanted:
            hit = predicate.operation == "EQUALS"
            assert predicate.operation in ("EQUALS", "NOT_EQUALS")
            things = [each for each in things if (getattr(each, predicate.key) == predicate.string_value) == hit]
        if sort := self.query.get("sort_by"):
            assert sort == "created_at desc"
            things = sorted(things, key=lambda each: each.created_at, reverse=True)
        begin = int(self.query.get("page_token") or 0)
        end = begin + min(int(self.query.get("page_size") or 10), self.api.page_size)
        more = str(end) if end < len(things) else None
        return written(answer(**{key: things[begin:end] or None, "total_size": len(things), "next_page_token": more}))

    def _pipelines(self, rest: list[str], verb: str) -> Any:
        match (self.command, *rest):
            case ("POST",):
                made = read(json.loads(self.body), "V2beta1Pipeline")
                self._allow(made.namespace)
                if any(
                    each.name == made.name and each.namespace == made.namespace for each in self.api.pipelines.values()
                ):
                    raise Refusal(409, f"Already exist error: pipeline {made.name}", 6)
                made.pipeline_id, made.created_at = str(uuid.uuid4()), self.api.now()
                self.api.pipelines[made.pipeline_id] = made
                return written(made)
            case ("GET", "names", name):
                self._allow(self.query.get("namespace"))
                for each in self.api.pipelines.values():
                    if (each.name, each.namespace) == (name, self.query.get("namespace")):
                        return written(each)
                raise Refusal(404, f"ResourceNotFoundError: Pipeline {name} not found", 5)
            case ("POST", "upload_version"):
                return self._upload()
            case ("GET", pipeline, "versions"):
                self._allow(self._found(self.api.pipelines, pipeline).namespace)
                things = [each for each in self.api.versions.values() if each.pipeline_id == pipeline]
                return self._page(things, "pipeline_versions", models.V2beta1ListPipelineVersionsResponse)
            case ("GET", pipeline, "versions", version):
                self._allow(self._found(self.api.pipelines, pipeline).namespace)
                return written(self._found(self.api.versions, version))
        raise Refusal(404, "Not Found", 5)

    def _upload(self) -> Any:
        assert set(self.query) == {"name", "display_name", "description", "pipelineid"}
        pipeline = self._found(self.api.pipelines, self.query["pipelineid"])
        self._allow(pipeline.namespace)
        whole = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\n\n" + self.body)
        (part,) = whole.get_payload()
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        assert part.get_filename().endswith(".yaml")
        documents = list(yaml.load_all(part.get_payload(decode=True), yaml.CSafeLoader))
        spec = dict(zip(("pipeline_spec", "platform_spec"), documents, strict=False)) if documents[1:] else documents[0]
        taken = [each for each in self.api.versions.values() if each.pipeline_id == pipeline.pipeline_id]
        if any(each.name == self.query["name"] for each in taken):
            # The upload's errors are of another form than those of the rest.
            raise_body = Refusal(409, "")
            raise_body.body = {"error_message": "Failed to create a pipeline version", "error_details": "..."}
            raise raise_body
        made = models.V2beta1PipelineVersion(
            pipeline_id=pipeline.pipeline_id,
            pipeline_version_id=str(uuid.uuid4()),
            name=self.query["name"],
            display_name=self.query["display_name"],
            description=self.query["description"],
            created_at=self.api.now(),
            pipeline_spec=spec,
        )
        self.api.versions[made.pipeline_version_id] = made
        return written(made)

    def _experiments(self, rest: list[str], verb: str) -> Any:
        if self.command == "GET" and not rest:
            self._allow(self.query.get("namespace"))
            namespace = self.query.get("namespace")
            things = [each for each in self.api.experiments.values() if each.namespace == namespace]
            return self._page(things, "experiments", models.V2beta1ListExperimentsResponse)
        assert self.command == "POST" and not rest
        made = read(json.loads(self.body), "V2beta1Experiment")
        self._allow(made.namespace)
        if any(each.display_name == made.display_name for each in self.api.experiments.values()):
            raise Refusal(409, f"Already exist error: experiment {made.display_name}", 6)
        made.experiment_id, made.created_at, made.storage_state = str(uuid.uuid4()), self.api.now(), "AVAILABLE"
        self.api.experiments[made.experiment_id] = made
        return written(made)

    def _runs(self, rest: list[str], verb: str) -> Any:
        match (self.command, verb, *rest):
            case ("POST", ""):
                return self._start(read(json.loads(self.body), "V2beta1Run"))
            case ("GET", ""):
                experiment = self.query.get("experiment_id")
                namespace = self.api.experiments[experiment].namespace if experiment else self.query.get("namespace")
                self._allow(namespace)
                things = [
                    each
                    for each in self.api.runs.values()
                    if (each.experiment_id == experiment if experiment else self._namespace_of(each) == namespace)
                ]
                return self._page(things, "runs", models.V2beta1ListRunsResponse)
        run = self._found(self.api.runs, rest[0])
        self._allow(self._namespace_of(run))
        if (self.command, verb) == ("GET", ""):
            answer = written(run)
            self.api.on_look(run)
            return answer
        if (self.command, verb) == ("DELETE", ""):
            del self.api.runs[run.run_id]
            return {}
        assert self.command == "POST"
        if verb == "retry" and run.state not in ("FAILED", "CANCELED"):
            raise Refusal(400, "Workflow must be Failed/Error to retry", 3)
        run.state = {"terminate": "CANCELING", "retry": "RUNNING"}[verb]
        return {}

    def _namespace_of(self, thing: Any) -> str | None:
        return self.api.experiments[thing.experiment_id].namespace

    def _start(self, run: Any) -> Any:
        experiment = self._found(self.api.experiments, run.experiment_id)
        self._allow(experiment.namespace)
        self._check_parameters(run)
        run.run_id, run.created_at, run.state = str(uuid.uuid4()), self.api.now(), "PENDING"
        run.finished_at, run.storage_state = "1970-01-01T00:00:00Z", "AVAILABLE"
        self.api.runs[run.run_id] = run
        self.api.on_run(run)
        return written(run)

    def _check_parameters(self, thing: Any) -> None:
        """What the driver would refuse: a parameter that the version has not, or of another type."""
        reference = thing.pipeline_version_reference
        if reference.pipeline_version_id:
            version = self._found(self.api.versions, reference.pipeline_version_id)
            assert version.pipeline_id == reference.pipeline_id
        else:
            of_it = [each for each in self.api.versions.values() if each.pipeline_id == reference.pipeline_id]
            version = max(of_it, key=lambda each: each.created_at)
        spec = version.pipeline_spec.get("pipeline_spec", version.pipeline_spec)
        inputs = spec["root"]["inputDefinitions"]["parameters"]
        kinds = {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool, "STRING": str}
        for name, value in (thing.runtime_config.parameters or {}).items():
            kind = kinds.get(inputs[name]["parameterType"], object) if name in inputs else ()
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise Refusal(400, f"InvalidInputError: input parameter {name}", 3)

    def _recurringruns(self, rest: list[str], verb: str) -> Any:
        match (self.command, verb, *rest):
            case ("POST", ""):
                return self._schedule(read(json.loads(self.body), "V2beta1RecurringRun"))
            case ("GET", ""):
                self._allow(self.query.get("namespace"))
                things = [each for each in self.api.schedules.values() if each.namespace == self.query.get("namespace")]
                return self._page(things, "recurring_runs", models.V2beta1ListRecurringRunsResponse)
        schedule = self._found(self.api.schedules, rest[0])
        self._allow(schedule.namespace)
        match (self.command, verb):
            case ("DELETE", ""):
                del self.api.schedules[schedule.recurring_run_id]
            case ("POST", "enable" | "disable"):
                schedule.status = f"{verb.upper()}D"
            case _:
                raise Refusal(404, "Not Found", 5)
        self.api.note()
        return {}

    def _schedule(self, made: Any) -> Any:
        self._allow(made.namespace)
        self._check_parameters(made)
        assert made.mode in ("ENABLE", "DISABLE")
        if not 1 <= int(made.max_concurrency or 0) <= 10:
            raise Refusal(400, "The max concurrency of the recurring run is out of range. Support 1-10.", 3)
        trigger = made.trigger
        assert (trigger.cron_schedule is None) != (trigger.periodic_schedule is None)
        if trigger.cron_schedule and len(trigger.cron_schedule.cron.split()) != 6:
            raise Refusal(400, "Schedule cron is not a supported format", 3)
        made.recurring_run_id, made.created_at = str(uuid.uuid4()), self.api.now()
        made.status = f"{made.mode}D"
        self.api.schedules[made.recurring_run_id] = made
        self.api.note()
        return written(made)

    def _found(self, things: dict[str, Any], key: str | None) -> Any:
        if key not in things:
            raise Refusal(404, f"ResourceNotFoundError: {key} not found", 5)
        return things[key]
