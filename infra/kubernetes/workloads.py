"""What runs, as the manifests have it, and what each pod must keep to; each policy tells what breaks it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PIPELINES, REGISTRY = "atlas-fusion", "atlas-fusion-registry"
"""The namespaces: what pipelines start and what serves; MLflow and all that holds its data."""
WITH_A_TOKEN = {(PIPELINES, "pipeline-runner")}
"""The only service accounts that have a token and rights: those that the steps run as."""
LONG_RUNNING = {"Deployment", "StatefulSet", "DaemonSet", "InferenceService"}
VOLUMES = {"emptyDir", "configMap", "secret", "persistentVolumeClaim", "projected", "downwardAPI"}
MOVING = {
    "latest",
    "nightly",
    "main",
    "master",
    "trunk",
    "head",
    "dev",
    "develop",
    "edge",
    "canary",
    "snapshot",
    "stable",
}
"""Words of tags that are another image tomorrow."""
_USER = {"runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile"}
OF_A_POD = _USER | {"fsGroup", "fsGroupChangePolicy", "supplementalGroups"}
OF_A_CONTAINER = _USER | {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}
"""What a securityContext may set; all else gives rights, or the node's."""

_CREDENTIAL = re.compile(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY", re.IGNORECASE)
_WRITTEN_DOWN = {
    "a password in an address": re.compile(r"://[^/\s:@]*:(?!\$)[^/\s@]+@"),
    "a key of AWS": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
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

    @property
    def account(self) -> str:
        """The service account, by either of its two names."""
        return str(self.spec.get("serviceAccountName") or self.spec.get("serviceAccount") or "")


def name_of(thing: Manifest) -> str:
    """Kind and name, as complaints give them."""
    return f"{thing['kind']} {thing['metadata']['name']}"


def unfolded(things: list[Manifest]) -> list[Manifest]:
    """The same objects, with those of a List in its place."""
    lists = [unfolded(thing["items"]) if "items" in thing else [thing] for thing in things]
    return [thing for each in lists for thing in each]


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
        for word, kind, name in (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name")):
            if word in volume:
                yield kind, volume[word][name], {item["key"] for item in volume[word].get("items", [])}
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], set()


def pods_are_written_out(things: list[Manifest]) -> Iterator[str]:
    """What serves names its containers: those that KServe makes up, nobody here can look at."""
    for thing in things:
        for part, spec in thing["spec"].items() if thing["kind"] == "InferenceService" else ():
            if not spec.get("containers"):
                yield f"{name_of(thing)}: {part} without containers"


def images_are_pinned(things: list[Manifest]) -> Iterator[str]:
    """Every image has a digest, or a tag with a number in it and no word such as `latest` or `main`."""
    for pod in pods(things):
        for container in pod.containers:
            image = container.get("image", "")
            tag = image.rpartition("/")[2].partition(":")[2]
            words = set(re.split(r"[^a-z0-9]+", tag.lower()))
            by_tag = "@" not in image and re.search(r"\d", tag) and not words & MOVING
            if not by_tag and not re.fullmatch(r"[^@]+@sha256:[0-9a-f]{64}", image):
                yield f"{pod.owner}: image {image or 'missing'!r} of {container['name']} is not pinned"


def no_pod_has_privileges(things: list[Manifest]) -> Iterator[str]:
    """No root, user or group, no capabilities, nothing of the node, a root file system that cannot be written."""
    for pod in pods(things):
        context = pod.spec.get("securityContext", {})
        if wrong := set(context) - OF_A_POD:
            yield f"{pod.owner}: securityContext sets {', '.join(sorted(wrong))}"
        if context.get("fsGroup") == 0 or 0 in context.get("supplementalGroups", []):
            yield f"{pod.owner}: is in root's group"
        for word in ("hostNetwork", "hostPID", "hostIPC", "ephemeralContainers"):
            if pod.spec.get(word):
                yield f"{pod.owner}: {word}"
        for volume in pod.spec.get("volumes", []):
            if wrong := set(volume) - {"name"} - VOLUMES:
                yield f"{pod.owner}: volume {volume['name']} is a {', '.join(sorted(wrong))}"
        for container in pod.containers:
            yield from _privileges(f"{pod.owner}, {container['name']}", container, context)


def _privileges(where: str, container: Manifest, of_the_pod: Manifest) -> Iterator[str]:
    own = container.get("securityContext", {})
    context = of_the_pod | own
    if wrong := set(own) - OF_A_CONTAINER:
        yield f"{where}: securityContext sets {', '.join(sorted(wrong))}"
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield f"{where}: may run as root"
    if not context.get("runAsGroup"):
        yield f"{where}: is in root's group"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{where}: has no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: allowPrivilegeEscalation is not false"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{where}: its root file system can be written"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where}: does not drop all capabilities"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{where}: hostPort"


def resources_are_bounded(things: list[Manifest]) -> Iterator[str]:
    """Every container asks for CPU and memory and has a limit of memory; every emptyDir has a size; none is 0."""
    for pod in pods(things):
        for container in pod.containers:
            resources = container.get("resources", {})
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            if not all(map(_some, (requests.get("cpu"), requests.get("memory"), limits.get("memory")))):
                yield f"{pod.owner}, {container['name']}: no requests of cpu and memory, or no limit of memory"
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and not _some((volume["emptyDir"] or {}).get("sizeLimit")):
                yield f"{pod.owner}: emptyDir {volume['name']} has no sizeLimit"


def _some(quantity: Any) -> bool:
    """Whether a quantity such as 500m or 2Gi is there and is not 0, which means no limit."""
    number = re.match(r"\d*\.?\d+", str(quantity))
    return number is not None and float(number[0]) > 0


def servers_are_probed(things: list[Manifest]) -> Iterator[str]:
    """What runs for good says when it is ready, and is started anew when it hangs."""
    for pod in pods(things):
        for container in pod.spec["containers"]:
            missing = {"readinessProbe", "livenessProbe"} - set(container)
            if pod.kind in LONG_RUNNING and missing:
                yield f"{pod.owner}, {container['name']}: no {' and no '.join(sorted(missing))}"


def jobs_end(things: list[Manifest]) -> Iterator[str]:
    """Every job has a deadline."""
    for thing in things:
        specs = {"Job": lambda spec: spec, "CronJob": lambda spec: spec["jobTemplate"]["spec"]}
        if thing["kind"] in specs and not specs[thing["kind"]](thing["spec"]).get("activeDeadlineSeconds"):
            yield f"{name_of(thing)}: no activeDeadlineSeconds"


def tokens_are_for_the_steps(things: list[Manifest]) -> Iterator[str]:
    """No pod and no service account has a token for the API server, but the one that pipelines run by."""
    for thing in things:
        allowed = (thing["metadata"].get("namespace"), thing["metadata"]["name"]) in WITH_A_TOKEN
        if thing["kind"] == "ServiceAccount" and thing.get("automountServiceAccountToken") is not False and not allowed:
            yield f"{name_of(thing)}: its token is mounted"
    for pod in pods(things):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.owner}: mounts a token"
        if (pod.namespace, pod.account) in WITH_A_TOKEN:
            yield f"{pod.owner}: runs as {pod.account}"
        for volume in pod.spec.get("volumes", []):
            if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", [])):
                yield f"{pod.owner}: volume {volume['name']} brings a token"


def no_secret_is_written_down(things: list[Manifest]) -> Iterator[str]:
    """Credentials are references: no Secret, no value under such a name, and nowhere a text that can only be one."""
    for thing in things:
        if thing["kind"] == "Secret":
            yield f"{name_of(thing)}: its values stand in the manifests"
        if thing.get("binaryData"):
            yield f"{name_of(thing)}: binaryData cannot be looked through"
        for key, value in (thing.get("data") or {}).items() if thing["kind"] == "ConfigMap" else ():
            if value and _CREDENTIAL.search(key):
                yield f"{name_of(thing)}: {key} holds a credential"
        for what in {what for text in _texts(thing) for what, form in _WRITTEN_DOWN.items() if form.search(text)}:
            yield f"{name_of(thing)}: holds {what}"
    for pod in pods(things):
        for container in pod.containers:
            for entry in container.get("env", []):
                if entry.get("value") and _CREDENTIAL.search(entry["name"]):
                    yield f"{pod.owner}, {container['name']}: {entry['name']} holds a credential"


def _texts(part: Any) -> Iterator[str]:
    """Every text in a manifest: commands, annotations, files in ConfigMaps."""
    if isinstance(part, str):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _texts(each)
