"""What the manifests of a whole overlay must keep to; each policy tells what breaks it, one line a place."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PIPELINES, REGISTRY = "atlas-fusion", "atlas-fusion-registry"
"""The namespaces: what pipelines start and what serves; MLflow and all that holds its data."""
OF_THE_CLUSTER = {"Namespace"}
"""The only kind without a namespace that is ours to make."""
MAKES_SECRETS = {"Secret", "ExternalSecret", "SealedSecret"}
WITH_A_TOKEN = {"pipeline-runner"}
LONG_RUNNING = {"Deployment", "StatefulSet", "DaemonSet", "InferenceService"}
VOLUMES = {"emptyDir", "configMap", "secret", "persistentVolumeClaim", "projected", "downwardAPI"}
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
SOURCES = {
    "kube_": "kube-state-metrics",
    "kubelet_volume_stats_": "the kubelet",
    "kn_serving_": "Knative's queue-proxy",
}
"""Who measures what alerts ask for, by the beginning of the name."""

_CREDENTIAL = re.compile(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY", re.IGNORECASE)
_IN_A_URL = re.compile(r"://[^/\s:@]+:[^/\s@]+@")
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """The specification of a pod somewhere in a manifest, with the labels that its pods get."""

    owner: str
    kind: str
    namespace: str
    spec: Manifest
    labels: dict[str, str]

    @property
    def containers(self) -> list[Manifest]:
        """Every container, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def name_of(thing: Manifest) -> str:
    """Kind and name, as complaints give them."""
    return f"{thing['kind']} {thing['metadata']['name']}"


def pods(things: list[Manifest]) -> list[Pod]:
    """Every pod that the manifests describe, wherever its specification stands, in custom resources too."""
    return [pod for thing in things for pod in _pods(thing, thing, {})]


def _pods(thing: Manifest, part: Any, labels: dict[str, str]) -> Iterator[Pod]:
    if isinstance(part, list):
        for each in part:
            yield from _pods(thing, each, labels)
    if not isinstance(part, dict):
        return
    if isinstance(part.get("containers"), list):
        own = {"serving.kserve.io/inferenceservice": thing["metadata"]["name"]} if "predictor" in thing["spec"] else {}
        yield Pod(name_of(thing), thing["kind"], thing["metadata"].get("namespace", ""), part, labels | own)
        return
    labels = (part.get("metadata") or {}).get("labels", {})
    for each in part.values():
        yield from _pods(thing, each, labels)


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


def images_are_pinned(things: list[Manifest]) -> Iterator[str]:
    """Every image has a tag other than `latest`, or a digest."""
    for pod in pods(things):
        for container in pod.containers:
            image = container.get("image", "")
            tag = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and tag in ("", "latest"):
                yield f"{pod.owner}: image {image or 'missing'!r} of {container['name']} is not pinned"


def no_pod_has_privileges(things: list[Manifest]) -> Iterator[str]:
    """No root, no capabilities, nothing of the node, a root file system that cannot be written."""
    for pod in pods(things):
        context = pod.spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{pod.owner}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.owner}: has no seccomp profile"
        for word in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(word):
                yield f"{pod.owner}: {word}"
        for volume in pod.spec.get("volumes", []):
            if wrong := set(volume) - {"name"} - VOLUMES:
                yield f"{pod.owner}: volume {volume['name']} is a {', '.join(sorted(wrong))}"
        for container in pod.containers:
            yield from _privileges(f"{pod.owner}, {container['name']}", container)


def _privileges(where: str, container: Manifest) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("privileged"):
        yield f"{where}: privileged"
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        yield f"{where}: runs as root"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: allowPrivilegeEscalation is not false"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{where}: its root file system can be written"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where}: does not drop all capabilities"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{where}: hostPort"


def resources_are_bounded(things: list[Manifest]) -> Iterator[str]:
    """Every container asks for CPU and memory and has a limit of memory; every emptyDir has a size."""
    for pod in pods(things):
        for container in pod.containers:
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get(
                "limits", {}
            ):
                yield f"{pod.owner}, {container['name']}: no requests of cpu and memory, or no limit of memory"
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit"):
                yield f"{pod.owner}: emptyDir {volume['name']} has no sizeLimit"


def servers_are_probed(things: list[Manifest]) -> Iterator[str]:
    """What runs for good says when it is ready, and is started anew when it hangs; a job has a deadline or an end."""
    for pod in pods(things):
        for container in pod.spec["containers"]:
            missing = {"readinessProbe", "livenessProbe"} - set(container)
            if pod.kind in LONG_RUNNING and missing:
                yield f"{pod.owner}, {container['name']}: no {' and no '.join(sorted(missing))}"


def tokens_are_for_the_steps(things: list[Manifest]) -> Iterator[str]:
    """No pod and no service account has a token for the API server, but the one that pipelines run by."""
    for thing in things:
        allowed = thing["metadata"]["name"] in WITH_A_TOKEN
        if thing["kind"] == "ServiceAccount" and thing.get("automountServiceAccountToken") is not False and not allowed:
            yield f"{name_of(thing)}: its token is mounted"
    for pod in pods(things):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.owner}: mounts a token"
        if pod.spec.get("serviceAccountName") in WITH_A_TOKEN:
            yield f"{pod.owner}: runs as {pod.spec['serviceAccountName']}"


def no_secret_is_written_down(things: list[Manifest]) -> Iterator[str]:
    """Credentials are references: no Secret, no such value in the environment, none within an address."""
    for thing in things:
        if thing["kind"] == "Secret":
            yield f"{name_of(thing)}: its values stand in the manifests"
        for key, value in (thing.get("data") or {}).items():
            if _IN_A_URL.search(value) or (_CREDENTIAL.search(key) and thing["kind"] == "ConfigMap"):
                yield f"{name_of(thing)}: {key} holds a credential"
    for pod in pods(things):
        for container in pod.containers:
            for entry in container.get("env", []):
                value = entry.get("value", "")
                if value and (_CREDENTIAL.search(entry["name"]) or _IN_A_URL.search(value)):
                    yield f"{pod.owner}, {container['name']}: {entry['name']} holds a credential"


def roles_are_small(things: list[Manifest]) -> Iterator[str]:
    """No wildcard, no Secret but by name, nothing that starts or enters pods or hands rights on."""
    for thing in things:
        if thing["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{name_of(thing)}: rights in the whole cluster"
        for rule in thing.get("rules", []) if thing["kind"] == "Role" else []:
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            if any("*" in word for word in words):
                yield f"{name_of(thing)}: a wildcard"
            if "secrets" in rule["resources"] and (not rule.get("resourceNames") or rule["verbs"] != ["get"]):
                yield f"{name_of(thing)}: reads Secrets that it does not name"
            if words & {"pods/exec", "pods/attach", "escalate", "bind", "impersonate", "roles", "rolebindings"} or (
                "pods" in rule["resources"] and set(rule["verbs"]) & {"create", "update", "patch", "delete"}
            ):
                yield f"{name_of(thing)}: makes or enters pods, or hands rights on"


def references_exist(things: list[Manifest]) -> Iterator[str]:
    """ConfigMaps, service accounts and claims are in the build, Secrets among those that the runbook has made.

    Each in the namespace of what refers to it.
    """
    there = {(thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"]): thing for thing in things}
    for pod in pods(things):
        account = pod.spec.get("serviceAccountName")
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


def references(spec: Manifest) -> Iterator[tuple[str, str, set[str]]]:
    """Kind, name and keys of what a pod cannot start without."""
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for entry in container.get("env", []):
            for word, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                reference = entry.get("valueFrom", {}).get(word)
                if reference and not reference.get("optional"):
                    yield kind, reference["name"], {reference["key"]}
        for source in container.get("envFrom", []):
            for word, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if word in source and not source[word].get("optional"):
                    yield kind, source[word]["name"], set()
    for volume in spec.get("volumes", []):
        if "secret" in volume:
            keys = {item["key"] for item in volume["secret"].get("items", [])}
            yield "Secret", volume["secret"]["secretName"], keys
        if "configMap" in volume:
            yield (
                "ConfigMap",
                volume["configMap"]["name"],
                {item["key"] for item in volume["configMap"].get("items", [])},
            )
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], set()


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
            "Service": lambda spec: [{"podSelector": {"matchLabels": spec["selector"]}}],
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
    rules = [*spec.get("ingress", []), *spec.get("egress", [])]
    peers = [peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])] if "podSelector" in peer]
    return [peer for peer in peers if "namespaceSelector" not in peer or _ours(peer["namespaceSelector"])]


def _ours(selector: Manifest) -> bool:
    return selector.get("matchLabels", {}).get("kubernetes.io/metadata.name") in SECRET_KEYS


def network_is_closed(things: list[Manifest]) -> Iterator[str]:
    """All is denied first; what opens it names peers and never the metadata service; no port is open to the world."""
    policies = [thing for thing in things if thing["kind"] == "NetworkPolicy"]
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for namespace in SECRET_KEYS:
        if closed not in [thing["spec"] for thing in policies if thing["metadata"].get("namespace") == namespace]:
            yield f"no NetworkPolicy denies everything first in {namespace}"
    for thing in policies:
        spec = thing["spec"]
        rules = [*spec.get("ingress", []), *spec.get("egress", [])]
        for rule in rules:
            peers = [*rule.get("from", []), *rule.get("to", [])]
            if not peers or {} in peers or {"namespaceSelector": {}} in peers:
                yield f"{name_of(thing)}: open to everyone"
            for block in (peer["ipBlock"] for peer in peers if "ipBlock" in peer):
                if block["cidr"] == "0.0.0.0/0" and "169.254.0.0/16" not in block.get("except", []):
                    yield f"{name_of(thing)}: reaches the metadata service of the cloud"
    for thing in things:
        if thing["kind"] == "Service" and thing["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{name_of(thing)}: is reached from outside past the ingress"


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
    images_are_pinned,
    no_pod_has_privileges,
    resources_are_bounded,
    servers_are_probed,
    tokens_are_for_the_steps,
    no_secret_is_written_down,
    roles_are_small,
    references_exist,
    selectors_select,
    network_is_closed,
    alerts_are_whole,
)
