"""A client of the Kubeflow Pipelines API (v2beta1): retries, log-in and what every failure means, in one place."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import InputError
from pipelines.kubeflow.access import Access
from pipelines.kubeflow.errors import Failure, Refused, failure_of, refused

if TYPE_CHECKING:
    import kfp_server_api as kfp

_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each further attempt
_PAGE = 100
_ID = 36  # signs of a run's id
_NEWEST = 500  # runs that the beginning of an id is looked for among


class Kubeflow:
    """One cluster's Kubeflow Pipelines, as one user sees it.

    Every method raises InputError, in one line, for what the network, the cluster or the credentials refuse; `pause` is
    what waits between attempts.
    """

    def __init__(self, access: Access, pause: Callable[[float], None] = time.sleep) -> None:
        self.access = access
        self._pause = pause
        self._client = _client(access)
        self._cookie = access.cookie
        self._met = False
        self.multi_user = self._check()

    # What is there

    def _check(self) -> bool:
        """Whether the cluster has users with namespaces; raises InputError where no KFP API of version 2 answers."""
        import kfp_server_api as kfp

        health = self._call(kfp.HealthzServiceApi, "healthz_service_get_healthz", safe=True, missing=True)
        if health is None:
            raise self._older()
        if not self.access.namespace and health.multi_user:
            raise InputError(
                f"{self.access.host} has users with namespaces; name yours with --namespace or FUSION_KFP_NAMESPACE"
            )
        return bool(health.multi_user)

    def _older(self) -> InputError:
        """Why the API of version 2 is not there."""
        import kfp_server_api as kfp

        address = f"{self.access.host}/apis/v1beta1/healthz"
        try:
            answer = self._client.rest_client.GET(address, self._client.default_headers, _request_timeout=(10, 10))
            older = "json" in (answer.getheader("content-type") or "")
        except (kfp.ApiException, OSError):
            older = False
        if older:
            return InputError(f"{self.access.host} is Kubeflow Pipelines 1 only; atlas-fusion needs version 2")
        return Failure(404, html=True).told(self.access, sent=False)

    @property
    def _namespace(self) -> dict[str, str]:
        """The namespace as an argument, where the cluster has any use for it."""
        return {"namespace": self.access.namespace} if self.multi_user else {}

    def pipeline(self, name: str) -> "kfp.V2beta1Pipeline | None":
        """The pipeline of that name, if there is one."""
        import kfp_server_api as kfp

        get = "pipeline_service_get_pipeline_by_name"
        return self._call(kfp.PipelineServiceApi, get, name, safe=True, missing=True, **self._namespace)

    def create_pipeline(self, name: str, description: str) -> "kfp.V2beta1Pipeline":
        """A pipeline without versions; the one that is there if another made it meanwhile."""
        import kfp_server_api as kfp

        body = kfp.V2beta1Pipeline(name=name, display_name=name, description=description, **self._namespace)
        try:
            return self._call(kfp.PipelineServiceApi, "pipeline_service_create_pipeline", body)
        except Refused as failure:
            found = self.pipeline(name) if failure.status == 409 else None
            if found is None:
                raise
            return found

    def versions(self, pipeline_id: str, name: str = "") -> Iterator["kfp.V2beta1PipelineVersion"]:
        """The versions of a pipeline, the newest first; only those of that name if one is given."""
        import kfp_server_api as kfp

        chosen = _filter(EQUALS("display_name", name)) if name else {}
        listed = self._pages(
            kfp.PipelineServiceApi,
            "pipeline_service_list_pipeline_versions",
            "pipeline_versions",
            pipeline_id,
            sort_by="created_at desc",
            **chosen,
        )
        return (version for version in listed if not name or name in (version.name, version.display_name))

    def version(self, pipeline_id: str, version_id: str) -> "kfp.V2beta1PipelineVersion | None":
        """One version, with its specification; none if it was deleted."""
        import kfp_server_api as kfp

        get = "pipeline_service_get_pipeline_version"
        return self._call(kfp.PipelineServiceApi, get, pipeline_id, version_id, safe=True, missing=True)

    def upload_version(
        self, pipeline_id: str, name: str, description: str, package: Path
    ) -> "kfp.V2beta1PipelineVersion":
        """A new version of a pipeline from a compiled YAML file."""
        import kfp_server_api as kfp

        named: dict[str, Any] = {
            "name": name,
            "display_name": name,
            "description": description,
            "pipelineid": pipeline_id,
        }
        upload = "upload_pipeline_version"
        return self._call(kfp.PipelineUploadServiceApi, upload, str(package), safe=False, missing=False, **named)

    def experiment(self, name: str) -> "kfp.V2beta1Experiment | None":
        """The experiment of that name, if there is one."""
        import kfp_server_api as kfp

        listed = self._pages(
            kfp.ExperimentServiceApi,
            "experiment_service_list_experiments",
            "experiments",
            **_filter(EQUALS("display_name", name)),
            **self._namespace,
        )
        return next((each for each in listed if each.display_name == name), None)

    def ensure_experiment(self, name: str) -> "kfp.V2beta1Experiment":
        """The experiment of that name, made if it is not there; raises InputError for one in the archive."""
        import kfp_server_api as kfp

        found = self.experiment(name)
        if found is None:
            body = kfp.V2beta1Experiment(display_name=name, **self._namespace)
            try:
                return self._call(kfp.ExperimentServiceApi, "experiment_service_create_experiment", body)
            except Refused as failure:
                found = self.experiment(name) if failure.status == 409 else None
                if found is None:
                    raise
        if found.storage_state == "ARCHIVED":
            raise InputError(f"experiment {name} is in the archive; restore it in the UI, or name another one")
        return found

    def experiments(self) -> dict[str, str]:
        """The names of the experiments by their ids."""
        import kfp_server_api as kfp

        list_ = "experiment_service_list_experiments"
        listed = self._pages(kfp.ExperimentServiceApi, list_, "experiments", **self._namespace)
        return {each.experiment_id: each.display_name for each in listed}

    # Runs

    def create_run(self, run: "kfp.V2beta1Run") -> "kfp.V2beta1Run":
        """Start a run."""
        import kfp_server_api as kfp

        return self._call(kfp.RunServiceApi, "run_service_create_run", run)

    def run(self, run_id: str) -> "kfp.V2beta1Run":
        """One run with its steps, by its id or the first signs of it."""
        import kfp_server_api as kfp

        whole = run_id if len(run_id) >= _ID else self._whole_id(run_id)
        found = self._call(kfp.RunServiceApi, "run_service_get_run", whole, safe=True, missing=True) if whole else None
        if found is None:
            raise InputError(f"no run {run_id!r} at {self.access.host}; `fusion runs list` lists them")
        return found

    def _whole_id(self, beginning: str) -> str:
        """The id of the only run of the newest that begins so; "" for none."""
        runs, _ = self.runs("", _NEWEST, "", "")
        found = [run.run_id for run in runs if beginning and run.run_id.startswith(beginning.lower())]
        if len(found) > 1:
            raise InputError(f"{len(found)} runs begin with {beginning}; give more of the id")
        return found[0] if found else ""

    def runs(self, page: str, limit: int, experiment_id: str, state: str) -> tuple[list["kfp.V2beta1Run"], str]:
        """At most `limit` runs from a page on, the newest first, and what the next page is called ("" for none)."""
        import kfp_server_api as kfp

        # Runs in the archive are those that somebody put away.
        wanted = [{"operation": "NOT_EQUALS", "key": "storage_state", "string_value": "ARCHIVED"}]
        if state:
            wanted.append(EQUALS("state", state))
        where = {"experiment_id": experiment_id} if experiment_id else self._namespace
        found: list[kfp.V2beta1Run] = []
        while len(found) < limit:
            size = min(_PAGE, limit - len(found))
            sought: dict[str, Any] = {
                "page_token": page,
                "page_size": size,
                "sort_by": "created_at desc",
                **_filter(*wanted),
                **where,
            }
            answer = self._call(kfp.RunServiceApi, "run_service_list_runs", safe=True, missing=False, **sought)
            found += answer.runs or []
            page = answer.next_page_token or ""
            if not page:
                break
        return found, page

    def act_on_run(self, run_id: str, action: str) -> None:
        """Do `terminate`, `retry` or `delete`; the first and the last may be asked for twice."""
        import kfp_server_api as kfp

        safe = action != "retry"
        self._call(kfp.RunServiceApi, f"run_service_{action}_run", run_id, safe=safe, missing=action == "delete")

    def run_page(self, run_id: str) -> str:
        """The address of a run's page."""
        return f"{self.access.ui}/#/runs/details/{run_id}"

    # Schedules, which the API calls recurring runs

    def create_schedule(self, schedule: "kfp.V2beta1RecurringRun") -> "kfp.V2beta1RecurringRun":
        """Make a schedule."""
        import kfp_server_api as kfp

        schedule.namespace = self._namespace.get("namespace")
        return self._call(kfp.RecurringRunServiceApi, "recurring_run_service_create_recurring_run", schedule)

    def schedules(self, name: str = "") -> list["kfp.V2beta1RecurringRun"]:
        """The schedules, the newest first; only those of that name or id if one is given."""
        import kfp_server_api as kfp

        listed = self._pages(
            kfp.RecurringRunServiceApi,
            "recurring_run_service_list_recurring_runs",
            "recurring_runs",
            sort_by="created_at desc",
            **self._namespace,
        )
        return [each for each in listed if not name or name in (each.display_name, each.recurring_run_id)]

    def act_on_schedule(self, schedule_id: str, action: str) -> None:
        """Do `enable`, `disable` or `delete`, which may all be asked for twice."""
        import kfp_server_api as kfp

        method = f"recurring_run_service_{action}_recurring_run"
        self._call(kfp.RecurringRunServiceApi, method, schedule_id, safe=True, missing=action == "delete")

    def schedule_page(self, schedule_id: str) -> str:
        """The address of a schedule's page."""
        return f"{self.access.ui}/#/recurringrun/details/{schedule_id}"

    # How it is asked

    def _pages(self, service: Any, method: str, what: str, *arguments: Any, **options: Any) -> Iterator[Any]:
        token = ""
        while True:
            paged = {"page_token": token, "page_size": _PAGE, **options}
            answer = self._call(service, method, *arguments, safe=True, **paged)
            yield from getattr(answer, what) or []
            token = answer.next_page_token or ""
            if not token:
                return

    def _call(
        self, service: Any, method: str, *arguments: Any, safe: bool = False, missing: bool = False, **options: Any
    ) -> Any:
        """Ask once, or, where it is safe to ask twice, again after a passing failure; None where nothing is `missing`.

        What is not safe is asked again only if it never reached the server.
        """
        for pause in (*_PAUSES, None):
            try:
                return self._ask(service, method, *arguments, **options)
            except Failure as failure:
                if missing and failure.status == 404 and failure.from_api:
                    return None
                # Whoever has answered once is worth waiting for; at first a wrong address is likelier.
                again = failure.network == "unreachable" if self._met else False
                if pause is None or not (again or (safe and failure.passing)):
                    raise failure.told(self.access, sent=not safe) from None
            self._pause(pause)
        raise AssertionError

    def _ask(self, service: Any, method: str, *arguments: Any, **options: Any) -> Any:
        """Ask once; a session that has ended is renewed once, where there are a user and a password."""
        try:
            return self._send(service, method, *arguments, **options)
        except Failure as failure:
            if not (self.access.username and failure.needs_login):
                raise
        self._log_in()
        return self._send(service, method, *arguments, **options)

    def _send(self, service: Any, method: str, *arguments: Any, **options: Any) -> Any:
        self._authorise()
        limits = (min(self.access.timeout, 10.0), self.access.timeout)
        try:
            answer = getattr(service(self._client), method)(*arguments, _request_timeout=limits, **options)
        except Exception as error:
            if failure := failure_of(error):
                raise failure from None
            raise
        self._met = True
        kind = self._client.last_response.getheader("content-type") or ""
        if "json" not in kind:
            raise Failure(200, text=str(self._client.last_response.data)[:2000], html="html" in kind)
        return answer

    def _authorise(self) -> None:
        if token := self.access.current_token():
            self._client.configuration.api_key["authorization"] = token
            self._client.configuration.api_key_prefix["authorization"] = "Bearer"
        if self._cookie:
            self._client.cookie = self._cookie

    def _log_in(self) -> None:
        import requests

        from pipelines.kubeflow.login import session_cookie

        access = self.access
        try:
            cookie = session_cookie(access.host, access.username, access.password, access.ca, access.timeout)
        except requests.RequestException as error:
            raise refused(error, access) from None
        if not cookie:
            raise Failure(401)
        self._cookie = cookie


def EQUALS(key: str, value: str) -> dict[str, str]:  # noqa: N802
    """A predicate of the API's filters."""
    return {"operation": "EQUALS", "key": key, "string_value": value}


def _filter(*predicates: dict[str, str]) -> dict[str, str]:
    return {"filter": json.dumps({"predicates": list(predicates)})}


def _client(access: Access) -> Any:
    import kfp_server_api as kfp
    from requests.utils import get_environ_proxies, select_proxy

    settings = kfp.Configuration(host=access.host)
    settings.ssl_ca_cert = access.ca or None
    # Retries and redirects are ours to judge: a redirect leads to a login page.
    settings.retries = False
    settings.proxy = select_proxy(access.host, get_environ_proxies(access.host))
    return kfp.ApiClient(settings)
