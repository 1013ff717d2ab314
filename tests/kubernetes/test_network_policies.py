"""Who may reach whom by the NetworkPolicies: exactly what has to, worked out as Kubernetes defines it."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra" / "kubernetes"))
import validate
from policies import PIPELINES, REGISTRY, Manifest, pods, selects, takes_pod

OTHERS = {
    "step": {"workflows.argoproj.io/workflow": "run-7", "pipelines.kubeflow.org/v2_component": "true"},
    "serve": {"serving.kserve.io/inferenceservice": "ct-mri-fusion"},
}
"""Pods that something else makes, in the namespace of pipelines; a stranger may be in either, or in another."""
PORTS = (22, 5000, 5432, 8333, 29500, 45678)
OPEN = {
    "local": {
        ("step", "mlflow", 5000),
        ("node", "mlflow", 5000),
        ("champion-check", "mlflow", 5000),
        ("mlflow-users", "mlflow", 5000),
        ("mlflow", "postgresql", 5432),
        ("mlflow-backup", "postgresql", 5432),
        ("mlflow", "s3", 8333),
        ("s3-buckets", "s3", 8333),
        ("step", "s3", 8333),
        ("node", "s3", 8333),
        *(("node", "node", port) for port in PORTS),
    },
    "production": {
        ("step", "mlflow", 5000),
        ("node", "mlflow", 5000),
        ("serve", "mlflow", 5000),
        ("champion-check", "mlflow", 5000),
        ("mlflow-users", "mlflow", 5000),
        *(("node", "node", port) for port in PORTS),
    },
}


Place = tuple[str, dict[str, str]]
"""A pod: its namespace and its labels."""


def takes(rule: Manifest, peers: str, home: str, other: Place, port: int) -> bool:
    """Whether a rule of a policy in the namespace `home` opens a port for a pod."""
    ports = rule.get("ports")
    if ports is not None and port not in [each["port"] for each in ports]:
        return False
    return any(takes_pod(peer, home, *other) for peer in rule[peers] if "ipBlock" not in peer)


def may_reach(policies: list[Manifest], source: Place, target: Place, port: int) -> bool:
    """Out of the one and into the other: where policies select a pod, one of them must open the way."""
    for pod, kind, peers, other in ((source, "Egress", "to", target), (target, "Ingress", "from", source)):
        home, labels = pod
        here = [each["spec"] for each in policies if each["metadata"]["namespace"] == home]
        chosen = [each for each in here if kind in each["policyTypes"] and selects(each["podSelector"], labels)]
        rules = [rule for each in chosen for rule in each.get(kind.lower(), [])]
        if chosen and not any(takes(rule, peers, home, other, port) for rule in rules):
            return False
    return True


@pytest.mark.parametrize("overlay", OPEN)
def test_what_has_to_be_open_is_and_nothing_else(overlay: str):
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    things = validate.build(validate.HERE / "overlays" / overlay)
    policies = [thing for thing in things if thing["kind"] == "NetworkPolicy"]
    places = {pod.labels.get("app.kubernetes.io/name", ""): (pod.namespace, pod.labels) for pod in pods(things)}
    places["node"] = next((each.namespace, each.labels) for each in pods(things) if each.kind == "TrainingRuntime")
    places = {name: each for name, each in places.items() if name not in ("", "atlas-fusion")}
    places |= {name: (PIPELINES, labels) for name, labels in OTHERS.items()}
    for namespace in (PIPELINES, REGISTRY, "team"):
        places[f"stranger in {namespace}"] = namespace, {"app": "stranger"}
    # Who only bears the labels, elsewhere.
    places |= {f"{name} elsewhere": ("team", labels) for name, (_, labels) in places.items() if "stranger" not in name}
    ours = [name for name, (namespace, _) in places.items() if namespace != "team"]
    found = {
        (source, target, port)
        for source in places
        for target in ours
        for port in PORTS
        if may_reach(policies, places[source], places[target], port)
    }
    assert found == OPEN[overlay]
    registry = {name for name, (namespace, _) in places.items() if namespace == REGISTRY}
    assert {"mlflow", "mlflow-backup", "mlflow-users", "champion-check"} <= registry
    assert not registry & {"node", "step", "serve"}


def test_of_what_lies_outside_a_step_reaches_https_alone():
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    things = validate.build(validate.HERE / "overlays" / "production")
    blocks = {}
    for thing in things:
        if thing["kind"] == "NetworkPolicy":
            for rule in thing["spec"].get("egress", []):
                for peer in rule["to"]:
                    if "ipBlock" in peer:
                        ports = frozenset(each["port"] for each in rule["ports"])
                        blocks[thing["metadata"]["name"]] = (peer["ipBlock"]["cidr"], ports)
    everywhere = {name: ports for name, (cidr, ports) in blocks.items() if cidr == "0.0.0.0/0"}
    assert everywhere == {"steps-https": {443, 6443}}
    assert blocks["dns"] == ("169.254.20.10/32", {53})
    assert {ports for name, (_, ports) in blocks.items() if name not in everywhere} == {
        frozenset({53}),
        frozenset({443}),
        frozenset({5432}),
    }
