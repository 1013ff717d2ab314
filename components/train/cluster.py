"""The Kubernetes calls of training on several nodes, all of them: TrainJobs, their pods, and the log of a pod.

The SDK's TrainerClient can put neither an owner reference nor variables out of a Secret into a TrainJob, does not
attach to one that is there, hides the server's answer behind a RuntimeError, gives up after 600 s and follows a log
only up to its first cut. So this speaks through the client beneath it, `kubernetes`; the SDK's models check what is
sent.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.train.refusal import ClusterError, refused
from model.errors import InputError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
GROUP, VERSION, TRAINJOBS = "trainer.kubeflow.org", "v1alpha1", "trainjobs"

_WATCH_SECONDS = 240
_SILENT_SECONDS = 600
_AT_FIRST = 60.0
_LONGEST_PAUSE = 30.0
_PASSING = {408, 429, 500, 502, 503, 504}

Object = dict[str, Any]


@dataclass(frozen=True)
class Launcher:
    """Who starts a TrainJob: what it shall be deleted with (None outside a cluster), and the pipeline run ("")."""

    owner: Object | None = None
    run: str = ""


@dataclass
class Cluster:
    """A namespace of a cluster; `stopped` ends every watch and every waiting for an answer.

    A server that does not answer is asked again, after `pause` seconds that grow, for `patience` seconds; for no more
    than a minute where nothing has been begun yet; `seconds` are for a connection and for each word of an answer. `pod`
    is the pod that this process runs in.
    Every method raises ClusterError, in one line, for what the server refuses.
    """

    namespace: str
    client: Any
    pod: str = ""
    patience: float = 600.0
    pause: float = 0.5
    seconds: tuple[float, float] = (5.0, 30.0)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        from kubernetes import client

        self._custom, self._core = client.CustomObjectsApi(self.client), client.CoreV1Api(self.client)
        self._raw = {"_preload_content": False, "_request_timeout": self.seconds}

    @classmethod
    def connect(cls, namespace: str = "", service_account: Path = SERVICE_ACCOUNT) -> "Cluster":
        """The cluster that this pod runs in, or else the one of the kubeconfig; the namespace too unless it is given.

        Raises InputError if there is neither.
        """
        from kubernetes import client, config
        from kubernetes.config.incluster_config import InClusterConfigLoader

        settings = client.Configuration()
        try:
            if (service_account / "token").exists():
                files = (str(service_account / name) for name in ("token", "ca.crt"))
                InClusterConfigLoader(*files).load_and_set(settings)
                found = (service_account / "namespace").read_text().strip()
                pod = next(filter(None, map(os.environ.get, ("KFP_POD_NAME", "POD_NAME", "HOSTNAME"))), "")
            else:
                config.load_kube_config(client_configuration=settings)
                found = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
                pod = ""
        except (config.ConfigException, OSError) as error:
            raise InputError(
                f"no Kubernetes cluster to train on several nodes ({error}); run the pipeline in one, set KUBECONFIG, "
                "or train on one node"
            ) from None
        settings.retries = False
        return cls(namespace or found, client.ApiClient(settings), pod)

    def launcher(self) -> Launcher:
        """The Argo workflow of this pod, or else the pod itself, and the pipeline run that its labels name."""
        if not self.pod or not (pod := self.find_pod(self.pod)):
            return Launcher()
        metadata = pod["metadata"]
        workflows = [owner for owner in metadata.get("ownerReferences", ()) if owner["kind"] == "Workflow"]
        own = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        # Without `blockOwnerDeletion`, which would take rights over the owner itself.
        owner = {key: (workflows or [own])[0][key] for key in own}
        labels = metadata.get("labels", {})
        return Launcher(owner, labels.get("pipeline/runid") or labels.get("workflows.argoproj.io/workflow", ""))

    def create(self, job: Object) -> Object | None:
        """The TrainJob as the server has made it; None if there is one of that name."""
        create = self._custom.create_namespaced_custom_object
        made: Object | None = self._job("create", create, job, none_if=409, first=True)
        return made

    def find(self, name: str) -> Object | None:
        """The TrainJob of that name; None if there is none."""
        found: Object | None = self._job("get", self._custom.get_namespaced_custom_object, name, none_if=404)
        return found

    def delete(self, name: str, uid: str, seconds: float = _AT_FIRST) -> None:
        """Delete that TrainJob and, before it is gone itself, all that belongs to it; another of its name stays."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        delete = self._custom.delete_namespaced_custom_object
        self._job("delete", delete, name, none_if=(404, 409), seconds=seconds, body=body)

    def await_gone(self, name: str, uid: str, seconds: float) -> bool:
        """Wait until that TrainJob is gone; False if it is not after so many seconds."""
        end, pause = time.monotonic() + seconds, self.pause
        while (job := self.find(name)) and job["metadata"]["uid"] == uid:
            if time.monotonic() > end or self.stopped.wait(pause):
                return False
            pause = min(2 * pause, 5.0)
        return True

    def find_pod(self, name: str) -> Object | None:
        """The pod of that name; None if there is none."""
        read = self._core.read_namespaced_pod
        found: Object | None = self._ask("get", "pods", lambda: _json(read(name, self.namespace, **self._raw)), 404)
        return found

    def pods(self, job: str) -> list[Object]:
        """The pods of a TrainJob's nodes, those of earlier attempts too while they are there."""
        page: Object = self._ask(
            "list", "pods", lambda: _json(self._list_pods(label_selector=_nodes(job), **self._raw))
        )
        return list(page["items"])

    def watch_job(self, name: str) -> Iterator[Object | None]:
        """The TrainJob of that name, at once and whenever it changes; None when there is none. Ends with `stopped`."""
        for found in self._watch(TRAINJOBS, self._list_jobs, field_selector=f"metadata.name={name}"):
            yield next(iter(found), None)

    def watch_pods(self, job: str) -> Iterator[list[Object]]:
        """All the pods of a TrainJob's nodes, at once and whenever one changes. Ends with `stopped`."""
        return self._watch("pods", self._list_pods, label_selector=_nodes(job))

    def log(self, pod: str, ended: bool) -> Iterator[bytes]:
        """The log of a node from its beginning, line by line as they come, each headed by its time stamp and a space.

        Ends where the server ends it. A line that lacks its end counts only if the container has `ended`. Raises
        what `kubernetes` and urllib3 raise.
        """
        follow = {"container": "node", "follow": True, "timestamps": True}
        response = self._core.read_namespaced_pod_log(
            pod, self.namespace, **follow, _preload_content=False, _request_timeout=(self.seconds[0], _SILENT_SECONDS)
        )
        rest = b""
        try:
            for piece in response.stream(amt=None, decode_content=False):
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
            if rest and ended:
                yield rest
        finally:
            response.close()

    def _job(self, verb: str, call: Callable[..., Any], *subject: Any, none_if: Any, **options: Any) -> Any:
        asked = {name: options.pop(name) for name in ("seconds", "first") if name in options}
        place = (GROUP, VERSION, self.namespace, TRAINJOBS)
        return self._ask(
            verb, TRAINJOBS, lambda: call(*place, *subject, _request_timeout=self.seconds, **options), none_if, **asked
        )

    def _list_jobs(self, **options: Any) -> Any:
        return self._custom.list_namespaced_custom_object(GROUP, VERSION, self.namespace, TRAINJOBS, **options)

    def _list_pods(self, **options: Any) -> Any:
        return self._core.list_namespaced_pod(self.namespace, **options)

    def _watch(self, resource: str, listing: Callable[..., Any], **selector: str) -> Iterator[list[Object]]:
        """The selected objects; whatever ends a watch, be it history that is gone, a listing then says where we are."""
        from kubernetes.client import ApiException
        from kubernetes.watch import Watch
        from urllib3.exceptions import HTTPError

        pause = self.pause
        while not self.stopped.is_set():
            page = self._ask("list", resource, lambda: _json(listing(**selector, **self._raw)))
            found = {item["metadata"]["uid"]: item for item in page["items"]}
            yield list(found.values())
            begin = {"resource_version": page["metadata"]["resourceVersion"], "timeout_seconds": _WATCH_SECONDS}
            try:
                for event in Watch().stream(
                    listing, **selector, **begin, _request_timeout=(self.seconds[0], _WATCH_SECONDS + 30)
                ):
                    pause, item = self.pause, event["raw_object"]
                    found[item["metadata"]["uid"]] = item
                    if event["type"] == "DELETED":
                        del found[item["metadata"]["uid"]]
                    yield list(found.values())
            except ApiException as error:
                if error.status in (401, 403):
                    raise refused(error, "watch", resource, self.namespace, self._host()) from None
            except (HTTPError, OSError, ValueError):
                pass
            self.stopped.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _ask(
        self,
        verb: str,
        resource: str,
        call: Callable[[], Any],
        none_if: int | tuple[int, ...] = (),
        seconds: float = 0.0,
        first: bool = False,
    ) -> Any:
        """The answer to a call, which is made again while the server is away."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        seconds = min(self.patience, seconds or (_AT_FIRST if first else self.patience))
        start, pause = time.monotonic(), self.pause
        while True:
            try:
                return call()
            except ApiException as error:
                if error.status not in _PASSING:
                    refusal = refused(error, verb, resource, self.namespace, self._host())
                    if error.status in (none_if if isinstance(none_if, tuple) else (none_if,)) and refusal.about_object:
                        return None
                    raise refusal from None
                reason = f"{error.status} {error.reason}"
            except (HTTPError, OSError) as error:
                reason = type(error).__name__
            if time.monotonic() - start + pause > seconds or self.stopped.wait(pause):
                raise ClusterError(
                    f"the Kubernetes API at {self._host()} does not answer ({reason}, asked to {verb} {resource} for "
                    f"{time.monotonic() - start:.0f} s); check that the cluster is up and reachable, then run again"
                )
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _host(self) -> str:
        return str(self.client.configuration.host)


def _json(response: Any) -> Any:
    return json.loads(response.data)


def _nodes(job: str) -> str:
    return f"jobset.sigs.k8s.io/jobset-name={job},jobset.sigs.k8s.io/replicatedjob-name=node"
