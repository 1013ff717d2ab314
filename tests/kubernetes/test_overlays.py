"""What kustomize makes of infra/kubernetes keeps to schemas and policies; each policy refuses what breaks it."""

import os
import pickle
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
from harms import HARMS, container, find, node, pod, predictor
from policies import POLICIES
from workloads import Manifest

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


@pytest.fixture(scope="module")
def pickled(built) -> bytes:
    return pickle.dumps(built)


@pytest.fixture
def things(pickled) -> list[Manifest]:
    """A copy of one's own."""
    return pickle.loads(pickled)


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


def test_every_policy_has_something_that_breaks_it():
    assert set(HARMS) == {policy.__name__ for policy in POLICIES}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_a_policy_says_nothing_of_what_keeps_to_it(built, policy):
    assert list(policy(built)) == []


@pytest.mark.parametrize(
    ("policy", "harm", "complaint"),
    [(policy, *row) for policy in POLICIES for row in HARMS[policy.__name__]],
    ids=[f"{policy.__name__}-{complaint}" for policy in POLICIES for _, complaint in HARMS[policy.__name__]],
)
def test_a_policy_refuses_what_breaks_it(things, policy, harm, complaint: str):
    harm(things)
    assert complaint in "\n".join(policy(things))


def test_kubeflow_looks_after_the_namespace_of_pipelines_and_not_after_the_registry(built):
    labels = {each["metadata"]["name"]: each["metadata"]["labels"] for each in built if each["kind"] == "Namespace"}
    of_kubeflow = {"pipelines.kubeflow.org/enabled": "true", "app.kubernetes.io/part-of": "kubeflow-profile"}
    assert labels[policies.PIPELINES].items() >= of_kubeflow.items()
    assert not labels[policies.REGISTRY].items() & of_kubeflow.items()


def test_what_is_in_a_list_is_looked_at_too(things):
    pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    container(things).update(image="atlas-fusion:latest")
    inner = {"apiVersion": "v1", "kind": "List", "items": things}
    (complaint,) = validate.complaints([{"apiVersion": "v1", "kind": "List", "items": [inner]}])
    assert "is not pinned" in complaint


@pytest.mark.parametrize(
    "image",
    ["atlas-fusion:0.1.0", "postgres:17", "registry.example.org:5000/a/b:1.2-cuda", f"a@sha256:{'0' * 64}"],
)
def test_a_pinned_image_is_none_to_complain_of(things, image: str):
    container(things).update(image=image)
    assert list(policies.images_are_pinned(things)) == []


def test_rights_and_users_may_stand_at_the_container_or_at_the_pod(things):
    container(things)["securityContext"].update(pod(things).pop("securityContext"))
    container(things)["securityContext"].pop("fsGroup")
    assert list(policies.no_pod_has_privileges(things)) == []


def test_an_address_with_references_in_place_of_a_password_is_no_secret(things):
    container(things)["command"].append("postgresql://$(PGUSER):$(PGPASSWORD)@db:5432/mlflow")
    assert list(policies.no_secret_is_written_down(things)) == []


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
    code += "".join((validate.HERE / name).read_text() for name in ("policies.py", "workloads.py"))
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in code} == set()
