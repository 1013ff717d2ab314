"""What stands in infra/serving: by KServe's schema, with few rights, its credentials by reference, its command real."""

import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml

from components.image import IMAGE
from components.train import trainjob
from pipelines.cli import app
from pipelines.serve import GRACE

HERE = Path(__file__).parent
INFRA = HERE.parent.parent / "infra"
SERVING = INFRA / "serving"

OF_KSERVE = {"minReplicas", "maxReplicas", "containerConcurrency", "timeout"}
"""Fields of a predictor that are KServe's own; it hands the others to Knative as they are."""
OF_A_POD = {
    *("automountServiceAccountToken", "containers", "enableServiceLinks"),
    *("imagePullSecrets", "serviceAccountName", "volumes"),
}
OF_A_CONTAINER = {
    *("args", "command", "env", "envFrom", "image", "imagePullPolicy", "livenessProbe", "name", "ports"),
    *("readinessProbe", "resources", "securityContext", "startupProbe", "terminationMessagePath"),
    *("terminationMessagePolicy", "volumeMounts", "workingDir"),
}
OF_A_CONTEXT = {
    *("allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"),
    *("runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile"),
}
OF_A_VOLUME = {"name", "configMap", "emptyDir", "projected", "secret"}
"""What Knative takes of each with its features as they are by default: pkg/apis/serving/fieldmask.go."""


@pytest.fixture
def service():
    return yaml.safe_load((SERVING / "inference-service.yaml").read_text())


@pytest.fixture
def container(service):
    (container,) = service["spec"]["predictor"]["containers"]
    return container


@pytest.fixture
def schema():
    return json.loads((INFRA / "kubernetes" / "schemas" / "inferenceservice.schema.json").read_text())


def test_the_service_is_what_kserve_accepts(service, schema):
    jsonschema.validate(service, schema)


@pytest.mark.parametrize(
    "harm",
    [
        lambda predictor: predictor.update(replicas=2),
        lambda predictor: predictor.update(minReplicas="1"),
        lambda predictor: predictor["containers"][0].update(environment=[]),
        lambda predictor: predictor["containers"][0]["readinessProbe"]["httpGet"].update(url="/ping"),
        lambda predictor: predictor["containers"][0]["securityContext"].update(root=False),
    ],
)
def test_the_schema_refuses_what_kserve_would_refuse(service, schema, harm):
    harm(service["spec"]["predictor"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(service, schema)


def test_the_pod_has_few_rights(service, container):
    predictor = service["spec"]["predictor"]
    assert predictor["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


def test_a_pod_that_stops_has_longer_than_its_requests(service):
    assert service["spec"]["predictor"]["timeout"] > GRACE


def refused_by_knative(predictor: dict) -> list[str]:
    """Fields that Knative's webhook refuses with its features as they are by default."""
    parts = [(OF_KSERVE | OF_A_POD, predictor), *((OF_A_VOLUME, each) for each in predictor.get("volumes", []))]
    for each in predictor["containers"]:
        parts += [(OF_A_CONTAINER, each), (OF_A_CONTEXT, each.get("securityContext", {}))]
        parts += [({"containerPort", "name", "protocol"}, port) for port in each.get("ports", [])]
        parts += [({"drop"}, each.get("securityContext", {}).get("capabilities", {}))]
    return [field for known, part in parts for field in part if field not in known]


def test_knative_takes_every_field_of_the_predictor(service):
    assert refused_by_knative(service["spec"]["predictor"]) == []


@pytest.mark.parametrize(
    ("harm", "field"),
    [
        (lambda predictor: predictor.update(terminationGracePeriodSeconds=60), "terminationGracePeriodSeconds"),
        (lambda predictor: predictor.update(securityContext={"fsGroup": 1000}), "securityContext"),
        (lambda predictor: predictor["containers"][0].update(lifecycle={}), "lifecycle"),
        (lambda predictor: predictor["volumes"][0].update(hostPath={"path": "/"}), "hostPath"),
    ],
)
def test_what_knative_refuses_is_noticed(service, harm, field: str):
    harm(service["spec"]["predictor"])
    assert refused_by_knative(service["spec"]["predictor"]) == [field]


def test_credentials_are_there_by_reference_only(container):
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    references = {entry["name"]: entry.get("valueFrom", {}) for entry in container["env"]}
    for name in trainjob._FROM_SECRET:
        assert values.get(name) is None and references.get(name, {}).get("secretKeyRef", {}).get("key", name) == name
    assert references["MLFLOW_TRACKING_URI"] == {
        "configMapKeyRef": {"name": "atlas-fusion", "key": "MLFLOW_TRACKING_URI"}
    }
    assert references["MLFLOW_TRACKING_PASSWORD"]["secretKeyRef"]["name"] == "mlflow-reader"


def test_the_command_is_one_that_fusion_takes(container):
    assert container["image"] == IMAGE
    program, command, *arguments = container["command"]
    assert program == "fusion"
    parsed = typer.main.get_command(app).commands[command].make_context(command, list(arguments)).params
    assert (parsed["model"], parsed["host"]) == ("models:/ct-mri-fusion@champion", "0.0.0.0")
    ports = {container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "readiness", "liveness")}
    assert ports == {parsed["port"]} == {port["containerPort"] for port in container["ports"]}


def test_kustomize_builds_it(service):
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl on this machine")
    done = subprocess.run(["kubectl", "kustomize", SERVING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(yaml.safe_load_all(done.stdout)) == [service]
