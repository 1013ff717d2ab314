"""What the manifests of a whole overlay must keep to: who may do what, who reaches whom, what refers to what.

Each policy tells what breaks it, one line a place. `workloads` has those of the pods.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from workloads import (
    PIPELINES,
    REGISTRY,
    WITH_A_TOKEN,
    Manifest,
    images_are_pinned,
    jobs_end,
    name_of,
    no_pod_has_privileges,
    no_secret_is_written_down,
    pods,
    pods_are_written_out,
    references,
    resources_are_bounded,
    servers_are_probed,
    tokens_are_for_the_steps,
)

OF_THE_CLUSTER = {"Namespace"}
"""The only kind without a namespace that is ours to make."""
MAKES_SECRETS = {"Secret", "ExternalSecret", "SealedSecret"}
MADE_ELSEWHERE = {
    "workflows.argoproj.io/workflow": "Argo, on every pod of a run",
    "serving.kserve.io/inferenceservice": "KServe, on every pod that serves",
}
"""Labels of pods that no manifest here makes, and who puts them there."""
_USER = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
_S3 = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
_POSTGRESQL = {"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD"}
SECRET_KEYS = {
    PIPELINES: {"atlas-fusion": _USER | _S3, "mlflow-reader": _USER},
    REGISTRY: {
        "mlflow": {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_FLASK_SERVER_SECRET_KEY", "authentication.ini"} | _S3,
        "mlflow-admin": {"username", "password"},
        "mlflow-pipeline": _USER,
        "mlflow-reader": _USER,
        "mlflow-backup": _POSTGRESQL,
        "mlflow-backup-s3": _S3,
        "mlflow-restore": _POSTGRESQL,
        "mlflow-tls": {"tls.crt", "tls.key"},
        "postgresql": {"POSTGRES_PASSWORD"},
        "s3": {"s3.json"} | _S3,
    },
}
"""The Secrets that docs/runbook.md has made outside of the manifests, by namespace, and what is in each."""
RULING = set[str]().union(*SECRET_KEYS[REGISTRY].values()) - _USER - _S3
"""Keys under which a Secret holds what rules the registry or its data."""
OF_KUBEFLOW = {"mlpipeline-minio-artifact"}
"""Secrets that Kubeflow makes in the namespace of pipelines."""
RIGHTS = {
    ("", "configmaps"): {"get"},
    ("", "secrets"): {"get"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "pods/log"): {"get"},
    ("argoproj.io", "workflowtaskresults"): {"create", "patch"},
    ("trainer.kubeflow.org", "trainjobs"): {"create", "get", "list", "watch", "delete"},
}
"""All that a Role may allow, by API group and resource."""
NAMED = {"configmaps": {"kfp-launcher"}, "secrets": OF_KUBEFLOW}
"""Resources of which a Role may reach only these objects."""
NAMESPACES_BY = {"kubernetes.io/metadata.name", "atlas-fusion/ingress"}
"""Labels that tell a namespace from any other: its name, and what an administrator puts on that of the ingress."""
OUTSIDE = {"externalIPs", "externalName", "loadBalancerIP"}
"""What gives a Service an address outside the cluster."""
WAYS = {"ingress": "from", "egress": "to"}
STEPS = {"matchExpressions": [{"key": "workflows.argoproj.io/workflow", "operator": "Exists"}]}
HTTPS = [{"port": port, "protocol": "TCP"} for port in (443, 6443)]
"""What the steps may speak with everyone; 6443 is the API server."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
METADATA = [ipaddress.ip_address(at) for at in ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254")]
"""Where clouds hand out the node's credentials, or a pod's."""
SOURCES = {
    "kube_": "kube-state-metrics",
    "kubelet_volume_stats_": "the kubelet",
    "kn_serving_": "Knative's queue-proxy",
}
"""Who measures what alerts ask for, by the beginning of the name."""


def in_our_namespaces(things: list[Manifest]) -> Iterator[str]:
    """All is in our namespaces, which let only pods in that keep to `restricted`, and gives rights within its own."""
    for thing in things:
        metadata = thing["metadata"]
        if thing["kind"] in OF_THE_CLUSTER:
            level = metadata.get("labels", {}).get("pod-security.kubernetes.io/enforce")
            if metadata["name"] not in SECRET_KEYS or level != "restricted":
                yield f"{name_of(thing)}: none of ours, or it does not enforce `restricted`"
        elif metadata.get("namespace") not in SECRET_KEYS:
            yield f"{name_of(thing)}: in namespace {metadata.get('namespace')}, none of ours"
        for subject in thing.get("subjects", []):
            if subject["kind"] != "ServiceAccount" or subject.get("namespace") != metadata.get("namespace"):
                yield f"{name_of(thing)}: gives rights to {subject['kind']} {subject['name']} of elsewhere"


def namespaces_are_bounded(things: list[Manifest]) -> Iterator[str]:
    """Each namespace is there, with a quota, and defaults for containers that say nothing."""
    there = {(thing["kind"], thing["metadata"].get("namespace", thing["metadata"]["name"])) for thing in things}
    for namespace in SECRET_KEYS:
        for kind in ("Namespace", "ResourceQuota", "LimitRange"):
            if (kind, namespace) not in there:
                yield f"no {kind} of {namespace}"


def the_registry_keeps_its_secrets(things: list[Manifest]) -> Iterator[str]:
    """What rules the registry or holds its data is in no Secret that the pipelines' namespace makes, names or reads."""
    known = {*SECRET_KEYS[PIPELINES], *OF_KUBEFLOW}
    for thing in things:
        for name, keys in _secrets(thing) if thing["metadata"].get("namespace") == PIPELINES else ():
            if name not in known or keys & RULING:
                yield f"{name_of(thing)}: Secret {name} with {sorted(keys)} in {PIPELINES}, where pipelines can read it"


def _secrets(part: Any) -> Iterator[tuple[str, set[str]]]:
    """Name and keys of every Secret that a manifest makes or, optional or not, refers to."""
    if isinstance(part, list):
        for each in part:
            yield from _secrets(each)
    if not isinstance(part, dict):
        return
    for each in part.values():
        yield from _secrets(each)
    if part.get("kind") in MAKES_SECRETS:
        made = part.get("spec", {}).get("target", {}).get("name", part["metadata"]["name"])
        yield made, {*part.get("data", {}), *part.get("stringData", {})}
    if isinstance(name := part.get("secretName"), str):
        yield name, {item["key"] for item in part.get("items", [])}
    for word in ("secretKeyRef", "secretRef", "secret"):
        if isinstance(each := part.get(word), dict) and "name" in each:
            yield each["name"], {each["key"]} if "key" in each else {item["key"] for item in each.get("items", [])}
    if "secrets" in part.get("resources", []):
        yield from ((name, set()) for name in part.get("resourceNames", []))


def roles_are_small(things: list[Manifest]) -> Iterator[str]:
    """A Role gives no right but those of RIGHTS, in the pipelines' namespace; bound is such a Role, to the steps."""
    roles = {(thing["metadata"].get("namespace"), thing["metadata"]["name"]) for thing in things if _is_role(thing)}
    for thing in things:
        if thing["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{name_of(thing)}: rights in the whole cluster"
        if thing["kind"] in ("Role", "RoleBinding") and thing["metadata"].get("namespace") != PIPELINES:
            yield f"{name_of(thing)}: rights elsewhere than in {PIPELINES}"
        for rule in thing.get("rules") or [] if _is_role(thing) else []:
            yield from (f"{name_of(thing)}: {wrong}" for wrong in _beyond(rule))
        if thing["kind"] == "RoleBinding":
            role, namespace = thing["roleRef"], thing["metadata"].get("namespace")
            if role["kind"] != "Role" or (namespace, role["name"]) not in roles:
                yield f"{name_of(thing)}: binds {role['kind']} {role['name']}, no Role of these manifests"
            for subject in thing.get("subjects", []):
                if (subject.get("namespace"), subject["name"]) not in WITH_A_TOKEN:
                    yield f"{name_of(thing)}: gives rights to {subject['kind']} {subject['name']}, none of the steps'"


def _is_role(thing: Manifest) -> bool:
    return bool(thing["kind"] == "Role")


def _beyond(rule: Manifest) -> Iterator[str]:
    """What a rule allows beyond RIGHTS, or on more objects than NAMED."""
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            if beyond := set(rule["verbs"]) - RIGHTS.get((group, resource), set()):
                yield f"may {', '.join(sorted(beyond))} {resource}"
            names = set(rule.get("resourceNames", []))
            if resource in NAMED and (not names or names - NAMED[resource]):
                yield f"reaches {resource} {', '.join(sorted(names)) or 'of any name'}"


def references_exist(things: list[Manifest]) -> Iterator[str]:
    """ConfigMaps, service accounts and claims are in the build, Secrets among those that the runbook has made.

    Each in the namespace of what refers to it.
    """
    there = {(thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"]): thing for thing in things}
    for pod in pods(things):
        account = pod.account
        if account and ("ServiceAccount", pod.namespace, account) not in there:
            yield f"{pod.owner}: no ServiceAccount {account}"
        for kind, name, keys in references(pod.spec):
            if kind == "Secret":
                documented = SECRET_KEYS.get(pod.namespace, {})
                if name not in documented or keys - documented[name]:
                    yield f"{pod.owner}: Secret {name} with {sorted(keys)} is none of the documented"
            elif keys - set(there.get((kind, pod.namespace, name), {}).get("data", {})) or (
                (kind, pod.namespace, name) not in there
            ):
                yield f"{pod.owner}: no {kind} {name} with {sorted(keys)}"
    for thing in things:
        namespace = thing["metadata"].get("namespace", "")
        for rule in thing["spec"].get("tls", []) if thing["kind"] == "Ingress" else []:
            if rule["secretName"] not in SECRET_KEYS.get(namespace, {}):
                yield f"{name_of(thing)}: Secret {rule['secretName']} is none of the documented"
        for subject in thing.get("subjects", []):
            if ("ServiceAccount", subject.get("namespace"), subject["name"]) not in there:
                yield f"{name_of(thing)}: no ServiceAccount {subject['name']}"


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels."""
    operators: dict[str, Callable[[str | None, list[str]], bool]] = {
        "Exists": lambda value, _: value is not None,
        "DoesNotExist": lambda value, _: value is None,
        "In": lambda value, among: value in among,
        "NotIn": lambda value, among: value not in among,
    }
    exact = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in exact.items()) and all(
        operators[each["operator"]](labels.get(each["key"]), each.get("values", []))
        for each in selector.get("matchExpressions", [])
    )


def selectors_select(things: list[Manifest]) -> Iterator[str]:
    """Policies, services, budgets and monitors are of pods that exist here, or that the documented others make."""
    known = [(pod.namespace, pod.labels) for pod in pods(things)]
    known += [(PIPELINES, {label: "any"}) for label in MADE_ELSEWHERE]
    for thing in things:
        spec = thing.get("spec", {})
        selectors = {
            "NetworkPolicy": lambda spec: [{"podSelector": spec["podSelector"]}, *_peers(spec)],
            "Service": lambda spec: [{"podSelector": {"matchLabels": spec.get("selector", {})}}],
            "PodDisruptionBudget": lambda spec: [{"podSelector": spec["selector"]}],
            "PodMonitor": lambda spec: [{"podSelector": spec["selector"]}],
        }.get(thing["kind"], lambda _: [])(spec)
        for peer in selectors:
            if not any(takes_pod(peer, thing["metadata"].get("namespace", ""), *pod) for pod in known):
                yield f"{name_of(thing)}: selects nothing that exists by {peer}"


def takes_pod(peer: Manifest, home: str, namespace: str, labels: dict[str, str]) -> bool:
    """Whether a peer of a policy in the namespace `home` is, or may be, a pod with these labels in that namespace."""
    by_name = selects(peer.get("namespaceSelector", {}), {"kubernetes.io/metadata.name": namespace})
    inside = by_name if "namespaceSelector" in peer else namespace == home
    return inside and selects(peer.get("podSelector", {}), labels)


def _peers(spec: Manifest) -> list[Manifest]:
    """The peers of a policy that are pods of our namespaces."""
    rules = [*(spec.get("ingress") or []), *(spec.get("egress") or [])]
    peers = [
        peer for rule in rules for peer in [*(rule.get("from") or []), *(rule.get("to") or [])] if "podSelector" in peer
    ]
    return [peer for peer in peers if "namespaceSelector" not in peer or _ours(peer["namespaceSelector"])]


def _ours(selector: Manifest) -> bool:
    return selector.get("matchLabels", {}).get("kubernetes.io/metadata.name") in SECRET_KEYS


def network_is_closed(things: list[Manifest]) -> Iterator[str]:
    """All is denied first; what opens it names peers, never everyone nor the metadata service, but HTTPS for steps."""
    policies = [thing for thing in things if thing["kind"] == "NetworkPolicy"]
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for namespace in SECRET_KEYS:
        here = [thing for thing in policies if thing["metadata"].get("namespace") == namespace]
        if closed not in [thing["spec"] for thing in here]:
            yield f"no NetworkPolicy denies everything first in {namespace}"
        for way in WAYS:
            if _everywhere(block for thing in here for rule in _rules(thing, way) for block in _blocks(rule, way)):
                yield f"NetworkPolicies of {namespace}: {way} of everywhere"
    for thing in policies:
        for way in WAYS:
            for rule in thing["spec"].get(way) or []:
                yield from (f"{name_of(thing)}: {wrong}" for wrong in _open(rule.get(WAYS[way]) or [], way))


def services_are_inside(things: list[Manifest]) -> Iterator[str]:
    """A Service has an address within the cluster, and no other."""
    for thing in things:
        spec = thing["spec"] if thing["kind"] == "Service" else {}
        if spec.get("type", "ClusterIP") != "ClusterIP" or set(spec) & {
            "externalIPs",
            "externalName",
            "loadBalancerIP",
        }:
            yield f"{name_of(thing)}: is reached from outside past the ingress, or leads there"


def _open(peers: list[Manifest], way: str) -> Iterator[str]:
    """What is wrong with the peers of a rule, each by itself."""
    if not peers or {} in peers:
        yield "open to everyone"
    for peer in peers:
        if "namespaceSelector" in peer and not _named(peer["namespaceSelector"]):
            yield f"open to any namespace that {peer['namespaceSelector']} takes; name it"
        if "ipBlock" in peer:
            block = _network(peer["ipBlock"]["cidr"])
            excepted = [_network(each) for each in peer["ipBlock"].get("except", [])]
            reached = [at for at in METADATA if at in block and not any(at in each for each in excepted)]
            if way == "egress" and reached:
                yield f"reaches the metadata service of the cloud at {reached[0]}"


def _named(selector: Manifest) -> bool:
    """Whether a selector takes only namespaces of a name, or that an administrator let in."""
    chosen = {each["key"] for each in selector.get("matchExpressions", []) if each["operator"] == "In"}
    return bool((chosen | set(selector.get("matchLabels", {}))) & NAMESPACES_BY)


def _rules(policy: Manifest, way: str) -> list[Manifest]:
    """The rules of a policy, without those that let the steps speak HTTPS."""
    rules = policy["spec"].get(way) or []
    steps = policy["metadata"].get("namespace") == PIPELINES and policy["spec"]["podSelector"] == STEPS
    free = way == "egress" and steps
    return [rule for rule in rules if not (free and rule.get("ports") and all(p in HTTPS for p in rule["ports"]))]


def _blocks(rule: Manifest, way: str) -> list[Network]:
    """The networks that a rule opens."""
    return [_network(peer["ipBlock"]["cidr"]) for peer in rule.get(WAYS[way]) or [] if "ipBlock" in peer]


def _network(text: str) -> Network:
    """A network; what is none counts as all of IPv4."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return ipaddress.ip_network("0.0.0.0/0")


def _everywhere(blocks: Iterable[Network]) -> bool:
    """Whether networks together are more than a 128th of all addresses; the private ones of IPv4 are less."""
    parts = list(blocks)
    for version, bits in ((4, 32), (6, 128)):
        whole = ipaddress.collapse_addresses([each for each in parts if each.version == version])  # type: ignore[type-var]
        if sum(each.num_addresses for each in whole) > 2 ** (bits - 7):
            return True
    return False


def alerts_are_whole(things: list[Manifest]) -> Iterator[str]:
    """Every alert has a name of its own, a severity, a summary, and asks for what somebody measures."""
    seen: set[str] = set()
    for rule in alerts(things):
        name = rule["alert"]
        if name in seen or "severity" not in rule.get("labels", {}) or "summary" not in rule.get("annotations", {}):
            yield f"alert {name}: there are two, or it has no severity or no summary"
        seen.add(name)
        for metric in metrics_of(rule["expr"]):
            if not metric.startswith(tuple(SOURCES)):
                yield f"alert {name}: nobody measures {metric}"


def alerts(things: list[Manifest]) -> list[Manifest]:
    """Every alert of the PrometheusRules."""
    groups = [group for thing in things if thing["kind"] == "PrometheusRule" for group in thing["spec"]["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def metrics_of(expression: str) -> set[str]:
    """The names of metrics in an expression: every name before braces."""
    return set(re.findall(r"\b([a-zA-Z_:][\w:]*)\s*\{", expression))


POLICIES: tuple[Callable[[list[Manifest]], Iterator[str]], ...] = (
    in_our_namespaces,
    namespaces_are_bounded,
    the_registry_keeps_its_secrets,
    pods_are_written_out,
    images_are_pinned,
    no_pod_has_privileges,
    resources_are_bounded,
    servers_are_probed,
    jobs_end,
    tokens_are_for_the_steps,
    no_secret_is_written_down,
    roles_are_small,
    references_exist,
    selectors_select,
    network_is_closed,
    services_are_inside,
    alerts_are_whole,
)
