"""What kustomize makes of infra/kubernetes keeps to schemas and policies; each policy refuses what breaks it."""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra" / "kubernetes"))
import policies
import validate
from policies import POLICIES, Manifest

LOCAL, PRODUCTION = (validate.HERE / "overlays" / name for name in ("local", "production"))
OUTSIDE = {
    **{"PGHOST": "db.example.org", "PGUSER": "mlflow", "PGPASSWORD": "p@ss/w%rd", "BACKUP_PGUSER": "reader"},
    **dict.fromkeys(("BACKUP_PGPASSWORD", "MLFLOW_S3_KEY", "MLFLOW_S3_SECRET", "STEPS_S3_KEY", "STEPS_S3_SECRET"), "x"),
    **dict.fromkeys(("BACKUP_S3_KEY", "BACKUP_S3_SECRET"), "x"),
}


@pytest.fixture(scope="module", params=[LOCAL, PRODUCTION], ids=["local", "production"])
def overlay(request) -> tuple[Path, list[Manifest]]:
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    return request.param, validate.build(request.param)


@pytest.fixture(scope="module")
def built() -> list[Manifest]:
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    return validate.build(PRODUCTION)


@pytest.fixture
def things(built) -> list[Manifest]:
    return copy.deepcopy(built)


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


def test_every_overlay_is_whole(overlay):
    pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    folder, things = overlay
    assert validate.complaints(things) == []
    assert len(things) > 30, folder


def test_one_place_names_the_image_wherever_it_stands(built):
    images = {each["image"] for made in policies.pods(built) for each in made.containers}
    assert images == {"registry.example.org/atlas-fusion:0.1.0", "postgres:17.6"}


@pytest.mark.parametrize(
    "harm",
    [
        lambda things: container(things).update(environment=[]),
        lambda things: pod(things).update(replicas="two"),
        lambda things: find(things, "Deployment", "mlflow")["spec"].update(replicas="2"),
        lambda things: find(things, "NetworkPolicy", "dns")["spec"].update(policyTypes=["Both"], ingres=[]),
        lambda things: things.append({"apiVersion": "v1", "kind": "Servise", "metadata": {"name": "a"}}),
        lambda things: things.append(
            {"apiVersion": "monitoring.coreos.com/v1", "kind": "Probe", "metadata": {"name": "a"}, "spec": {}}
        ),
        lambda things: things.append({"apiVersion": "acme.org/v1", "kind": "Widget", "metadata": {"name": "a"}}),
        lambda things: find(things, "PodMonitor", "serve")["spec"]["podMetricsEndpoints"][0].update(interval="often"),
        lambda things: find(things, "PrometheusRule", "atlas-fusion")["spec"]["groups"][0]["rules"][0].update(fro="5m"),
        lambda things: predictor(things).update(replicas=2),
        lambda things: node(things)["containers"][0].update(image_=""),
    ],
)
def test_the_schemas_refuse_what_a_cluster_would_refuse(things, harm):
    pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    harm(things)
    assert [line for thing in things for line in validate.known(thing)]


def rule(things: list[Manifest], name: str) -> Manifest:
    return find(things, "NetworkPolicy", name)["spec"]


RULING_SECRETS = ("mlflow", "mlflow-admin", "mlflow-backup", "mlflow-backup-s3", "mlflow-restore", "postgresql", "s3")


def into_env(things: list[Manifest], secret: str, key: str = "AWS_SECRET_ACCESS_KEY") -> None:
    """The nodes of a TrainJob get what a Secret holds, where it is there."""
    reference = {"secretKeyRef": {"name": secret, "key": key, "optional": True}}
    node(things)["containers"][0]["env"].append({"name": "A", "valueFrom": reference})


def made(kind: str, name: str) -> Manifest:
    return {"kind": kind, "metadata": {"name": name, "namespace": policies.PIPELINES}}


HARMS = {
    "in_our_namespaces": [
        lambda things: find(things, "Service", "mlflow")["metadata"].pop("namespace"),
        lambda things: find(things, "Service", "mlflow")["metadata"].update(namespace="default"),
        lambda things: find(things, "RoleBinding", "pipeline-runner")["subjects"][0].update(namespace="kube-system"),
        lambda things: find(things, "RoleBinding", "pipeline-runner")["subjects"].append(
            {"kind": "Group", "name": "system:authenticated"}
        ),
        lambda things: find(things, "RoleBinding", "pipeline-runner")["subjects"][0].update(
            namespace=policies.REGISTRY
        ),
        *(
            lambda things, name=name: find(things, "Namespace", name)["metadata"]["labels"].update(
                {"pod-security.kubernetes.io/enforce": "baseline"}
            )
            for name in (policies.PIPELINES, policies.REGISTRY)
        ),
    ],
    "namespaces_are_bounded": [
        lambda things, kind=kind, name=name: things.remove(find(things, kind, name))
        for kind in ("Namespace", "ResourceQuota", "LimitRange")
        for name in (policies.PIPELINES, policies.REGISTRY)
    ],
    "the_registry_keeps_its_secrets": [
        *(lambda things, name=name: into_env(things, name) for name in RULING_SECRETS),
        lambda things: into_env(things, "atlas-fusion", "MLFLOW_BACKEND_STORE_URI"),
        lambda things: into_env(things, "a-copy-under-another-name", "password"),
        lambda things: node(things)["containers"][0].update(
            envFrom=[{"secretRef": {"name": "mlflow-admin", "optional": True}}]
        ),
        lambda things: predictor(things)["volumes"].append({"name": "a", "secret": {"secretName": "mlflow-restore"}}),
        lambda things: node(things)["volumes"].append(
            {"name": "a", "projected": {"sources": [{"secret": {"name": "mlflow"}}]}}
        ),
        lambda things: find(things, "Role", "pipeline-runner")["rules"][1]["resourceNames"].append("mlflow-admin"),
        lambda things: things.append(made("Secret", "mlflow-admin")),
        lambda things: things.append(made("Secret", "atlas-fusion") | {"stringData": {"PGPASSWORD": "hush"}}),
        lambda things: things.append(made("ExternalSecret", "a") | {"spec": {"target": {"name": "mlflow"}}}),
    ],
    "images_are_pinned": [
        lambda things: container(things).update(image="atlas-fusion"),
        lambda things: container(things).update(image="registry:5000/atlas-fusion"),
        lambda things: node(things)["containers"][0].update(image="atlas-fusion:latest"),
        lambda things: pod(things).update(initContainers=[{"name": "a", "image": "busybox:latest"}]),
    ],
    "no_pod_has_privileges": [
        lambda things: pod(things)["securityContext"].update(runAsUser=0),
        lambda things: pod(things)["securityContext"].pop("runAsNonRoot"),
        lambda things: node(things)["securityContext"].pop("seccompProfile"),
        lambda things: predictor(things).update(hostNetwork=True),
        lambda things: pod(things)["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        lambda things: container(things)["securityContext"].update(privileged=True),
        lambda things: container(things)["securityContext"].update(runAsUser=0),
        lambda things: container(things)["securityContext"].update(readOnlyRootFilesystem=False),
        lambda things: container(things)["securityContext"].update(allowPrivilegeEscalation=True),
        lambda things: container(things)["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["NET_RAW"]}),
        lambda things: container(things)["ports"][0].update(hostPort=5000),
        lambda things: container(things).pop("securityContext"),
    ],
    "resources_are_bounded": [
        lambda things: container(things)["resources"].pop("limits"),
        lambda things: node(things)["containers"][0]["resources"]["requests"].pop("cpu"),
        lambda things: predictor(things)["volumes"][0].update(emptyDir={}),
    ],
    "servers_are_probed": [
        lambda things: container(things).pop("livenessProbe"),
        lambda things: predictor(things)["containers"][0].pop("readinessProbe"),
    ],
    "tokens_are_for_the_steps": [
        lambda things: pod(things).pop("automountServiceAccountToken"),
        lambda things: predictor(things).update(automountServiceAccountToken=True),
        lambda things: pod(things).update(serviceAccountName="pipeline-runner"),
        lambda things: find(things, "ServiceAccount", "mlflow").pop("automountServiceAccountToken"),
    ],
    "no_secret_is_written_down": [
        lambda things: things.append({"kind": "Secret", "metadata": {"name": "mlflow"}}),
        lambda things: container(things)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "hush"}),
        lambda things: container(things)["env"].append({"name": "URI", "value": "postgresql://a:b@db/mlflow"}),
        lambda things: find(things, "ConfigMap", "atlas-fusion")["data"].update(MLFLOW_TRACKING_PASSWORD="hush"),
        lambda things: find(things, "ConfigMap", "atlas-fusion")["data"].update(A="https://ann:hush@mlflow"),
    ],
    "roles_are_small": [
        lambda things: find(things, "Role", "pipeline-runner")["rules"][0].update(verbs=["*"]),
        lambda things: find(things, "Role", "pipeline-runner")["rules"][1].pop("resourceNames"),
        lambda things: find(things, "Role", "pipeline-runner")["rules"][2]["verbs"].append("create"),
        lambda things: find(things, "Role", "pipeline-runner")["rules"][2].update(resources=["pods/exec"]),
        lambda things: things.append({"kind": "ClusterRoleBinding", "metadata": {"name": "all"}}),
    ],
    "references_exist": [
        lambda things: things.remove(find(things, "ServiceAccount", "mlflow")),
        lambda things: things.remove(find(things, "PersistentVolumeClaim", "mlflow-backup")),
        lambda things: find(things, "ConfigMap", "atlas-fusion")["data"].pop("MLFLOW_TRACKING_URI"),
        lambda things: pod(things)["volumes"][1]["secret"].update(secretName="unknown"),
        lambda things: pod(things)["volumes"][1]["secret"]["items"][0].update(key="auth.ini"),
        lambda things: find(things, "Ingress", "mlflow")["spec"]["tls"][0].update(secretName="unknown"),
        lambda things: find(things, "RoleBinding", "pipeline-runner")["subjects"][0].update(name="pipeline"),
        lambda things: find(things, "ServiceAccount", "mlflow")["metadata"].update(namespace=policies.PIPELINES),
        lambda things: find(things, "ConfigMap", "atlas-fusion")["metadata"].update(namespace=policies.REGISTRY),
    ],
    "selectors_select": [
        lambda things: rule(things, "nodes")["podSelector"]["matchLabels"].update(app="nothing"),
        lambda things: rule(things, "mlflow")["ingress"][0]["from"][1]["podSelector"]["matchLabels"].update(app="no"),
        lambda things: rule(things, "mlflow")["ingress"][0]["from"][1].pop("namespaceSelector"),
        lambda things: rule(things, "steps")["egress"][0]["to"][0].pop("namespaceSelector"),
        lambda things: find(things, "Service", "mlflow")["spec"]["selector"].update(app="mlfow"),
        lambda things: find(things, "PodDisruptionBudget", "mlflow")["spec"]["selector"]["matchLabels"].update(a="b"),
        lambda things: find(things, "PodMonitor", "serve")["spec"]["selector"]["matchExpressions"][0].update(key="no"),
    ],
    "network_is_closed": [
        lambda things: things.remove(find(things, "NetworkPolicy", "default-deny")),
        lambda things: things.remove([each for each in things if each["metadata"]["name"] == "default-deny"][1]),
        lambda things: rule(things, "default-deny")["policyTypes"].remove("Egress"),
        lambda things: rule(things, "mlflow")["ingress"][0].pop("from"),
        lambda things: rule(things, "mlflow")["ingress"][0]["from"].append({"namespaceSelector": {}}),
        lambda things: rule(things, "steps-https")["egress"][0]["to"][0]["ipBlock"].pop("except"),
        lambda things: find(things, "Service", "mlflow")["spec"].update(type="NodePort"),
    ],
    "alerts_are_whole": [
        lambda things: policies.alerts(things)[0].update(alert="BackupFailed"),
        lambda things: policies.alerts(things)[0]["annotations"].pop("summary"),
        lambda things: policies.alerts(things)[0]["labels"].pop("severity"),
        lambda things: policies.alerts(things)[0].update(expr='mlflow_champion_age_seconds{model="a"} > 9'),
    ],
}


def test_every_policy_has_something_that_breaks_it():
    assert set(HARMS) == {policy.__name__ for policy in POLICIES}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_a_policy_refuses_what_breaks_it(things, built, policy):
    assert list(policy(things)) == []
    for number, harm in enumerate(HARMS[policy.__name__]):
        harmed = copy.deepcopy(built)
        harm(harmed)
        assert list(policy(harmed)), f"harm {number} is not noticed"


@pytest.mark.parametrize(("name", "folder"), [("local", LOCAL), ("production", PRODUCTION)])
def test_the_script_makes_every_secret_that_the_manifests_refer_to(name: str, folder: Path):
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    script = validate.HERE / "secrets.sh"
    done = subprocess.run([script, name], env=os.environ | OUTSIDE, capture_output=True, text=True, check=True)
    made = {place(each): set(each["data"]) for each in yaml.safe_load_all(done.stdout) if each}
    for each in policies.pods(validate.build(folder)):
        for kind, secret, keys in policies.references(each.spec):
            assert kind != "Secret" or keys <= made[each.namespace, secret], secret
    assert all(keys <= policies.SECRET_KEYS[namespace][secret] for (namespace, secret), keys in made.items())


def place(thing: Manifest) -> tuple[str, str]:
    return thing["metadata"]["namespace"], thing["metadata"]["name"]


@pytest.mark.parametrize("name", ["local", "production"])
def test_no_secret_of_the_registry_is_in_the_pipelines_namespace_under_any_name(name: str):
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    outside = {key: f"only-{key}" for key in OUTSIDE}
    command = [validate.HERE / "secrets.sh", name]
    done = subprocess.run(command, env=os.environ | outside, capture_output=True, text=True, check=True)
    made = [each for each in yaml.safe_load_all(done.stdout) if each]
    pipelines = {value for each in made if place(each)[0] == policies.PIPELINES for value in each["data"].values()}
    users = ("mlflow-pipeline", "mlflow-reader")
    registry = {value for each in made if place(each)[0] == policies.REGISTRY for value in each["data"].values()}
    shared = {value for each in made if place(each)[1] in users for value in each["data"].values()}
    assert pipelines & registry == shared, "the two users, and no other, are known on both sides"
    assert [kind for each in made for kind in list(policies.the_registry_keeps_its_secrets([each]))] == []


def test_half_a_key_for_the_copies_is_refused():
    outside = {key: value for key, value in (os.environ | OUTSIDE).items() if key != "BACKUP_S3_SECRET"}
    done = subprocess.run([validate.HERE / "secrets.sh", "production"], env=outside, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("BACKUP_S3_SECRET is not set")


def test_the_script_says_what_it_is_not_given():
    without = {key: value for key, value in (os.environ | OUTSIDE).items() if key != "MLFLOW_S3_KEY"}
    command = [validate.HERE / "secrets.sh", "production"]
    done = subprocess.run(command, env=without, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("MLFLOW_S3_KEY is not set")


def test_the_buckets_are_made_once_and_may_be_asked_for_again(s3):
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    (python, option, program) = container(validate.build(LOCAL), "Job", "s3-buckets")["command"]
    assert (python, option) == ("python", "-c")
    for _ in range(2):
        subprocess.run([sys.executable, option, program], check=True)
    assert {"mlflow", "atlas-fusion"} <= {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}


def test_a_kustomization_that_does_not_build_is_told_in_its_words(tmp_path):
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    tmp_path.joinpath("kustomization.yaml").write_text("resources: [missing.yaml]\n")
    with pytest.raises(validate.ToolError, match=r"missing\.yaml"):
        validate.build(tmp_path)


def test_what_the_threat_notes_name_as_proof_is_there():
    root = validate.HERE.parents[1]
    named = set(re.findall(r"`(test_\w+|[a-z]+(?:_[a-z]+){2,})`", (root / "docs" / "threats.md").read_text()))
    code = "\n".join(path.read_text() for path in (root / "tests").rglob("test_*.py"))
    code += (validate.HERE / "policies.py").read_text()
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in code} == set()
