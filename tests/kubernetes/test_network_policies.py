"""Who may reach whom by the NetworkPolicies: exactly what has to, worked out as Kubernetes defines it."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra" / "kubernetes"))
import validate
from policies import Manifest, pods, selects

OTHERS = {
    "step": {"workflows.argoproj.io/workflow": "run-7", "pipelines.kubeflow.org/v2_component": "true"},
    "serve": {"serving.kserve.io/inferenceservice": "ct-mri-fusion"},
    "stranger": {"app": "stranger"},
}
"""Pods that something else makes."""
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


def takes(rule: Manifest, peers: str, labels: dict[str, str], port: int) -> bool:
    """Whether a rule opens a port for a pod of the namespace."""
    ports = rule.get("ports")
    if ports is not None and port not in [each["port"] for each in ports]:
        return False
    inside = [peer for peer in rule[peers] if "podSelector" in peer and "namespaceSelector" not in peer]
    return any(selects(peer["podSelector"], labels) for peer in inside)


def may_reach(policies: list[Manifest], source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Out of the one and into the other: where policies select a pod, one of them must open the way."""
    for pod, kind, peers, other in ((source, "Egress", "to", target), (target, "Ingress", "from", source)):
        chosen = [each for each in policies if kind in each["policyTypes"] and selects(each["podSelector"], pod)]
        rules = [rule for each in chosen for rule in each.get(kind.lower(), [])]
        if chosen and not any(takes(rule, peers, other, port) for rule in rules):
            return False
    return True


@pytest.mark.parametrize("overlay", OPEN)
def test_what_has_to_be_open_is_and_nothing_else(overlay: str):
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    things = validate.build(validate.HERE / "overlays" / overlay)
    policies = [thing["spec"] for thing in things if thing["kind"] == "NetworkPolicy"]
    labels = {pod.labels.get("app.kubernetes.io/name", ""): pod.labels for pod in pods(things)}
    labels["node"] = next(each.labels for each in pods(things) if each.kind == "TrainingRuntime")
    labels = {name: each for name, each in labels.items() if name not in ("", "atlas-fusion")} | OTHERS
    found = {
        (source, target, port)
        for source in labels
        for target in labels
        for port in PORTS
        if may_reach(policies, labels[source], labels[target], port)
    }
    assert found == OPEN[overlay]


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
    assert {ports for name, (_, ports) in blocks.items() if name not in everywhere} == {
        frozenset({443}),
        frozenset({5432}),
    }
