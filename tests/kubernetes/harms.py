"""What breaks each policy of infra/kubernetes: a change to the manifests of production, and words of the complaint."""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra" / "kubernetes"))
import policies
from policies import PIPELINES, REGISTRY
from workloads import Manifest

Harm = Callable[[list[Manifest]], object]


def find(things: list[Manifest], kind: str, name: str) -> Manifest:
    return next(thing for thing in things if (thing["kind"], thing["metadata"]["name"]) == (kind, name))


def pod(things: list[Manifest], kind: str = "Deployment", name: str = "mlflow") -> Manifest:
    return find(things, kind, name)["spec"]["template"]["spec"]


def container(things: list[Manifest], kind: str = "Deployment", name: str = "mlflow") -> Manifest:
    return pod(things, kind, name)["containers"][0]


def predictor(things: list[Manifest]) -> Manifest:
    return find(things, "InferenceService", "ct-mri-fusion")["spec"]["predictor"]


def node(things: list[Manifest]) -> Manifest:
    job = find(things, "TrainingRuntime", "atlas-fusion")["spec"]["template"]["spec"]["replicatedJobs"][0]
    return job["template"]["spec"]["template"]["spec"]


def rule(things: list[Manifest], name: str) -> Manifest:
    return find(things, "NetworkPolicy", name)["spec"]


def made(kind: str, name: str, namespace: str = PIPELINES, **rest) -> Manifest:
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, **rest}


def into_env(things: list[Manifest], secret: str, key: str = "AWS_SECRET_ACCESS_KEY") -> None:
    """The nodes of a TrainJob get what a Secret holds, where it is there."""
    reference = {"secretKeyRef": {"name": secret, "key": key, "optional": True}}
    node(things)["containers"][0]["env"].append({"name": "A", "valueFrom": reference})


def image(name: str) -> Harm:
    return lambda things: container(things).update(image=name)


def context(**rest) -> Harm:
    """What a container's securityContext says besides."""
    return lambda things: container(things)["securityContext"].update(rest)


def of_the_pod(**rest) -> Harm:
    return lambda things: pod(things)["securityContext"].update(rest)


def may(group: str, resource: str, *verbs: str, **rest) -> Harm:
    """The steps may do this too."""
    allowed = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs), **rest}
    return lambda things: find(things, "Role", "pipeline-runner")["rules"].append(allowed)


def binding(**rest) -> Harm:
    return lambda things: find(things, "RoleBinding", "pipeline-runner").update(rest)


def block(policy: str, *networks: str, way: str = "egress", port: int = 5432, **rest) -> Harm:
    """A policy opens a port of networks, or to them."""
    peers = [{"ipBlock": {"cidr": network, **rest}} for network in networks]
    opened = {policies.WAYS[way]: peers, "ports": [{"port": port, "protocol": "TCP"}]}
    return lambda things: rule(things, policy).setdefault(way, []).append(opened)


def selector(**rest) -> Harm:
    """MLflow lets in pods of the namespaces that this selects."""
    peer = {"namespaceSelector": rest, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "mlflow"}}}
    return lambda things: rule(things, "mlflow")["ingress"][0]["from"].append(peer)


def brings(source: Manifest) -> Harm:
    return lambda things: pod(things)["volumes"].append({"name": "a", "projected": {"sources": [source]}})


def service(**rest) -> Harm:
    return lambda things: find(things, "Service", "mlflow")["spec"].update(rest)


def config(**rest) -> Harm:
    return lambda things: find(things, "ConfigMap", "atlas-fusion")["data"].update(rest)


RULING_SECRETS = ("mlflow", "mlflow-admin", "mlflow-backup", "mlflow-backup-s3", "mlflow-restore", "postgresql", "s3")
ANYONE = {"kind": "Group", "name": "system:authenticated"}
ADMIN = {"kind": "ClusterRole", "name": "cluster-admin"}
KEY = "AKIA" + "IOSFODNN7EXAMPLE"
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----"
URL = "postgresql://a:b@db/mlflow"

HARMS: dict[str, list[tuple[Harm, str]]] = {
    "in_our_namespaces": [
        (lambda things: find(things, "Service", "mlflow")["metadata"].pop("namespace"), "in namespace None"),
        (lambda things: find(things, "Service", "mlflow")["metadata"].update(namespace="a"), "in namespace a, none"),
        (lambda things: find(things, "RoleBinding", "pipeline-runner")["subjects"].append(ANYONE), "to Group system:"),
        *(
            (
                lambda things, at=at: find(things, "RoleBinding", "pipeline-runner")["subjects"][0].update(
                    namespace=at
                ),
                "pipeline-runner of elsewhere",
            )
            for at in ("kube-system", REGISTRY)
        ),
        *(
            (
                lambda things, name=name: find(things, "Namespace", name)["metadata"]["labels"].update(
                    {"pod-security.kubernetes.io/enforce": "baseline"}
                ),
                f"Namespace {name}: none of ours, or it does not enforce",
            )
            for name in (PIPELINES, REGISTRY)
        ),
    ],
    "namespaces_are_bounded": [
        (lambda things, kind=kind, name=name: things.remove(find(things, kind, name)), f"no {kind} of {name}")
        for kind in ("Namespace", "ResourceQuota", "LimitRange")
        for name in (PIPELINES, REGISTRY)
    ],
    "the_registry_keeps_its_secrets": [
        *((lambda things, name=name: into_env(things, name), f"Secret {name} with") for name in RULING_SECRETS),
        (lambda things: into_env(things, "atlas-fusion", "MLFLOW_BACKEND_STORE_URI"), "Secret atlas-fusion with"),
        (lambda things: into_env(things, "a-copy-under-another-name", "password"), "Secret a-copy-under"),
        (
            lambda things: node(things)["containers"][0].update(
                envFrom=[{"secretRef": {"name": "mlflow-admin", "optional": True}}]
            ),
            "Secret mlflow-admin",
        ),
        (
            lambda things: predictor(things)["volumes"].append(
                {"name": "a", "secret": {"secretName": "mlflow-restore"}}
            ),
            "Secret mlflow-restore",
        ),
        (
            lambda things: node(things)["volumes"].append(
                {"name": "a", "projected": {"sources": [{"secret": {"name": "mlflow"}}]}}
            ),
            "Secret mlflow with",
        ),
        (may("", "secrets", "get", resourceNames=["mlflow-admin"]), "Secret mlflow-admin"),
        (lambda things: things.append(made("Secret", "mlflow-admin")), "Secret mlflow-admin"),
        (lambda things: things.append(made("Secret", "atlas-fusion", stringData={"PGPASSWORD": "a"})), "PGPASSWORD"),
        (
            lambda things: things.append(made("ExternalSecret", "a", spec={"target": {"name": "mlflow"}})),
            "Secret mlflow with",
        ),
    ],
    "pods_are_written_out": [
        (lambda things: predictor(things).pop("containers"), "ct-mri-fusion: predictor without containers"),
        (
            lambda things: find(things, "InferenceService", "ct-mri-fusion")["spec"].update(
                transformer={"minReplicas": 1}
            ),
            "transformer without containers",
        ),
    ],
    "images_are_pinned": [
        *(
            (image(name), f"image '{name}'")
            for name in (
                *("atlas-fusion", "registry:5000/atlas-fusion", "evil@sha256:1", f"a@sha256:{'g' * 64}", "a:1@md5:1"),
                *(
                    f"a:{tag}"
                    for tag in ("nightly", "main", "dev", "stable", "latest-2", "1.2-main", "v", "Nightly-2026")
                ),
            )
        ),
        (lambda things: container(things).pop("image"), "image 'missing'"),
        (lambda things: node(things)["containers"][0].update(image="a:latest"), "TrainingRuntime atlas-fusion: image"),
        (lambda things: pod(things).update(initContainers=[{"name": "a", "image": "b:latest"}]), "'b:latest' of a"),
    ],
    "no_pod_has_privileges": [
        (of_the_pod(runAsUser=0), "Deployment mlflow, mlflow: may run as root"),
        (lambda things: pod(things)["securityContext"].pop("runAsNonRoot"), "may run as root"),
        (lambda things: node(things)["securityContext"].pop("seccompProfile"), "node: has no seccomp profile"),
        (of_the_pod(seccompProfile={"type": "Unconfined"}), "has no seccomp profile"),
        (of_the_pod(runAsGroup=0), "in root's group"),
        (of_the_pod(fsGroup=0), "Deployment mlflow: is in root's group"),
        (of_the_pod(supplementalGroups=[1000, 0]), "Deployment mlflow: is in root's group"),
        (of_the_pod(sysctls=[{"name": "kernel.shm_rmid_forced", "value": "0"}]), "sets sysctls"),
        (lambda things: predictor(things).update(hostNetwork=True), "InferenceService ct-mri-fusion: hostNetwork"),
        (lambda things: pod(things).update(ephemeralContainers=[{"name": "a"}]), "mlflow: ephemeralContainers"),
        (lambda things: pod(things)["volumes"].append({"name": "a", "hostPath": {"path": "/"}}), "a is a hostPath"),
        (context(privileged=True), "sets privileged"),
        (context(procMount="Unmasked"), "sets procMount"),
        (context(runAsUser=0), "may run as root"),
        (context(runAsNonRoot=False), "may run as root"),
        (context(runAsGroup=0), "in root's group"),
        (context(seccompProfile={"type": "Unconfined"}), "has no seccomp profile"),
        (context(readOnlyRootFilesystem=False), "root file system can be written"),
        (context(allowPrivilegeEscalation=True), "allowPrivilegeEscalation"),
        (context(capabilities={"drop": ["ALL"], "add": ["NET_RAW"]}), "drop all capabilities"),
        (lambda things: container(things)["ports"][0].update(hostPort=5000), "mlflow: hostPort"),
        (lambda things: container(things).pop("securityContext"), "drop all capabilities"),
        (lambda things: predictor(things)["containers"][0].pop("securityContext"), "drop all capabilities"),
    ],
    "resources_are_bounded": [
        (lambda things: container(things)["resources"].pop("limits"), "mlflow, mlflow: no requests of"),
        (lambda things: container(things)["resources"]["limits"].update(memory="0"), "no limit of memory"),
        (lambda things: container(things)["resources"]["limits"].update(memory="0Gi"), "no limit of memory"),
        (lambda things: node(things)["containers"][0]["resources"]["requests"].pop("cpu"), "atlas-fusion, node: no"),
        (lambda things: predictor(things)["volumes"][0].update(emptyDir={}), "emptyDir scratch has no sizeLimit"),
        (lambda things: predictor(things)["volumes"][0].update(emptyDir={"sizeLimit": "0"}), "has no sizeLimit"),
    ],
    "servers_are_probed": [
        (lambda things: container(things).pop("livenessProbe"), "no livenessProbe"),
        (lambda things: predictor(things)["containers"][0].pop("readinessProbe"), "no readinessProbe"),
    ],
    "jobs_end": [
        (lambda things: find(things, "Job", "mlflow-users")["spec"].pop("activeDeadlineSeconds"), "Job mlflow-users"),
        (
            lambda things: find(things, "CronJob", "mlflow-backup")["spec"]["jobTemplate"]["spec"].pop(
                "activeDeadlineSeconds"
            ),
            "CronJob mlflow-backup",
        ),
    ],
    "tokens_are_for_the_steps": [
        (lambda things: pod(things).pop("automountServiceAccountToken"), "Deployment mlflow: mounts a token"),
        (lambda things: predictor(things).update(automountServiceAccountToken=True), "ct-mri-fusion: mounts a token"),
        (lambda things: node(things).update(serviceAccountName="pipeline-runner"), "runs as pipeline-runner"),
        (lambda things: predictor(things).update(serviceAccount="pipeline-runner"), "runs as pipeline-runner"),
        (
            lambda things: find(things, "ServiceAccount", "mlflow").pop("automountServiceAccountToken"),
            "ServiceAccount mlflow: its token is mounted",
        ),
        (
            lambda things: things.append(made("ServiceAccount", "pipeline-runner", REGISTRY)),
            "ServiceAccount pipeline-runner: its token is mounted",
        ),
        (brings({"serviceAccountToken": {"path": "token"}}), "volume a brings a token"),
    ],
    "no_secret_is_written_down": [
        (lambda things: things.append(made("Secret", "mlflow")), "Secret mlflow: its values"),
        (
            lambda things: container(things)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "hush"}),
            "AWS_SECRET_ACCESS_KEY holds a credential",
        ),
        (lambda things: container(things)["env"].append({"name": "URI", "value": URL}), "a password in an address"),
        (lambda things: container(things)["command"].append(URL), "Deployment mlflow: holds a password in an address"),
        (lambda things: container(things).update(args=["--db", "redis://:hush@db"]), "a password in an address"),
        (lambda things: container(things).update(args=[KEY]), "a key of AWS"),
        (
            lambda things: find(things, "Service", "mlflow")["metadata"].update(annotations={"a": URL}),
            "Service mlflow: holds a password in an address",
        ),
        (config(MLFLOW_TRACKING_PASSWORD="hush"), "MLFLOW_TRACKING_PASSWORD holds a credential"),
        (config(A="https://ann:hush@mlflow"), "a password in an address"),
        (config(file=f"import os\nconnect('{URL}')\n"), "a password in an address"),
        (config(file=f"key = {KEY}\n"), "a key of AWS"),
        (config(file=f"{PEM}\nMII\n"), "a private key"),
        (lambda things: find(things, "ConfigMap", "atlas-fusion").update(binaryData={"a": "AA=="}), "binaryData"),
    ],
    "roles_are_small": [
        (may("", "pods", "*"), "may * pods"),
        (may("*", "*", "get"), "may get *"),
        (may("", "secrets", "get"), "reaches secrets of any name"),
        (may("", "secrets", "get", resourceNames=["mlflow-admin"]), "reaches secrets mlflow-admin"),
        (may("", "configmaps", "get"), "reaches configmaps of any name"),
        *(
            (may(group, resource, verb), f"may {verb} {resource}")
            for group, resource, verb in (
                *(("", "pods", verb) for verb in ("create", "patch", "delete", "deletecollection")),
                *(
                    ("", f"pods/{entry}", "create")
                    for entry in ("exec", "attach", "ephemeralcontainers", "portforward")
                ),
                *(("batch", "jobs", "create"), ("batch", "cronjobs", "create"), ("apps", "deployments", "create")),
                *(("", "serviceaccounts/token", "create"), ("", "serviceaccounts", "impersonate")),
                *(("argoproj.io", "workflows", "create"), ("trainer.kubeflow.org", "trainjobs", "patch")),
                *(("rbac.authorization.k8s.io", "roles", "escalate"), ("acme.org", "pods", "get")),
            )
        ),
        (lambda things: things.append({"kind": "ClusterRole", "metadata": {"name": "all"}}), "in the whole cluster"),
        (lambda things: things.append({"kind": "ClusterRoleBinding", "metadata": {"name": "a"}}), "whole cluster"),
        (lambda things: things.append(made("Role", "look", REGISTRY, rules=[])), "rights elsewhere than in"),
        (binding(roleRef=ADMIN), "binds ClusterRole cluster-admin"),
        (binding(roleRef={"kind": "Role", "name": "of-somebody"}), "binds Role of-somebody"),
        (
            binding(subjects=[{"kind": "ServiceAccount", "name": "fusion-train-node", "namespace": PIPELINES}]),
            "ServiceAccount fusion-train-node, none of the steps'",
        ),
    ],
    "references_exist": [
        (lambda things: things.remove(find(things, "ServiceAccount", "mlflow")), "no ServiceAccount mlflow"),
        (lambda things: things.remove(find(things, "PersistentVolumeClaim", "mlflow-backup")), "no PersistentVolumeCl"),
        (lambda things: find(things, "ConfigMap", "atlas-fusion")["data"].pop("MLFLOW_TRACKING_URI"), "no ConfigMap"),
        (lambda things: pod(things)["volumes"][1]["secret"].update(secretName="unknown"), "Secret unknown with"),
        (lambda things: pod(things)["volumes"][1]["secret"]["items"][0].update(key="auth.ini"), "with ['auth.ini']"),
        (lambda things: find(things, "Ingress", "mlflow")["spec"]["tls"][0].update(secretName="a"), "Secret a is none"),
        (
            lambda things: find(things, "RoleBinding", "pipeline-runner")["subjects"][0].update(name="pipeline"),
            "no ServiceAccount pipeline",
        ),
        (
            lambda things: find(things, "ServiceAccount", "mlflow")["metadata"].update(namespace=PIPELINES),
            "no ServiceAccount mlflow",
        ),
        (
            lambda things: find(things, "ConfigMap", "atlas-fusion")["metadata"].update(namespace=REGISTRY),
            "no ConfigMap atlas-fusion",
        ),
    ],
    "selectors_select": [
        (
            lambda things: rule(things, "nodes")["podSelector"]["matchLabels"].update(app="nothing"),
            "NetworkPolicy nodes",
        ),
        (
            lambda things: rule(things, "mlflow")["ingress"][0]["from"][1]["podSelector"]["matchLabels"].update(
                app="a"
            ),
            "NetworkPolicy mlflow",
        ),
        (
            lambda things: rule(things, "mlflow")["ingress"][0]["from"][1].pop("namespaceSelector"),
            "NetworkPolicy mlflow",
        ),
        (lambda things: rule(things, "steps")["egress"][0]["to"][0].pop("namespaceSelector"), "NetworkPolicy steps"),
        (lambda things: find(things, "Service", "mlflow")["spec"]["selector"].update(app="mlfow"), "Service mlflow"),
        (
            lambda things: find(things, "PodDisruptionBudget", "mlflow")["spec"]["selector"]["matchLabels"].update(
                a="b"
            ),
            "PodDisruptionBudget mlflow",
        ),
        (
            lambda things: find(things, "PodMonitor", "serve")["spec"]["selector"]["matchExpressions"][0].update(
                key="a"
            ),
            "PodMonitor serve",
        ),
    ],
    "network_is_closed": [
        (lambda things: things.remove(find(things, "NetworkPolicy", "default-deny")), "denies everything first in"),
        (
            lambda things: things.remove([each for each in things if each["metadata"]["name"] == "default-deny"][1]),
            "denies everything first in",
        ),
        (lambda things: rule(things, "default-deny")["policyTypes"].remove("Egress"), "denies everything first in"),
        (lambda things: rule(things, "mlflow")["ingress"][0].pop("from"), "NetworkPolicy mlflow: open to everyone"),
        (lambda things: rule(things, "mlflow").update(ingress=[{}]), "NetworkPolicy mlflow: open to everyone"),
        (selector(), "any namespace that {} takes"),
        (selector(matchLabels={"team": "a"}), "any namespace that"),
        (
            selector(matchExpressions=[{"key": "kubernetes.io/metadata.name", "operator": "Exists"}]),
            "any namespace that",
        ),
        (
            selector(matchExpressions=[{"key": "atlas-fusion/ingress", "operator": "NotIn", "values": ["a"]}]),
            "any namespace that",
        ),
        (
            lambda things: rule(things, "steps-https")["egress"][0]["to"][0]["ipBlock"].pop("except"),
            "metadata service of the cloud at 169.254.169.254",
        ),
        (block("nodes", "169.254.169.254/32"), "metadata service"),
        (block("steps-https", "::/0", port=443), "metadata service of the cloud at fd00:ec2::254"),
        (block("nodes", "0.0.0.0/0", **{"except": ["169.254.0.0/16"]}), f"{PIPELINES}: egress of everywhere"),
        (block("nodes", "0.0.0.0/0", port=443, **{"except": ["169.254.0.0/16"]}), "egress of everywhere"),
        (block("steps-https", "0.0.0.0/0", port=22, **{"except": ["169.254.0.0/16"]}), "egress of everywhere"),
        (block("nodes", "0.0.0.0/1", "128.0.0.0/1"), "egress of everywhere"),
        (block("nodes", "1.0.0.0/8", "2.0.0.0/8", "4.0.0.0/8"), "egress of everywhere"),
        (block("nodes", "::/0"), "egress of everywhere"),
        (block("jobs", "::/1", "8000::/1", port=443), f"{REGISTRY}: egress of everywhere"),
        (block("mlflow", "0.0.0.0/0", way="ingress", port=5000), f"{REGISTRY}: ingress of everywhere"),
        (block("mlflow", "anywhere", way="ingress", port=5000), "ingress of everywhere"),
    ],
    "services_are_inside": [
        (service(type="NodePort"), "Service mlflow: is reached from outside"),
        (service(type="LoadBalancer"), "Service mlflow: is reached from outside"),
        (service(externalIPs=["192.0.2.1"]), "Service mlflow: is reached from outside"),
    ],
    "alerts_are_whole": [
        (lambda things: policies.alerts(things)[0].update(alert="BackupFailed"), "alert BackupFailed: there are two"),
        (lambda things: policies.alerts(things)[0]["annotations"].pop("summary"), "no summary"),
        (lambda things: policies.alerts(things)[0]["labels"].pop("severity"), "no severity"),
        (
            lambda things: policies.alerts(things)[0].update(expr='mlflow_age{model="a"} > 9'),
            "nobody measures mlflow_age",
        ),
    ],
}
