"""The servers and the pipeline of infra/compose, really run: from nothing to a registered model, and back."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engine import IMAGE, ROOT, built, docker, need_engine

pytestmark = pytest.mark.integration

FOLDER = ROOT / "infra" / "compose"
SMALL = ("--phantom-subjects", "4", "--phantom-slices", "5", "--min-pairs", "8", "--epochs", "1")
# An engine without a bridge: the namespace that all share has loopback alone, and the build the machine's network.
WITHOUT_BRIDGE = """
services:
  network: {network_mode: none, build: {network: NETWORK}}
  database: {build: {network: NETWORK}}
  files: {build: {network: NETWORK}}
"""
ASK = """
import boto3, json, mlflow
version = mlflow.MlflowClient().get_model_version("ct-mri-fusion-quick", "1")
kept = [entry["Key"].rpartition("/")[2] for entry in boto3.client("s3").list_objects_v2(Bucket="mlflow")["Contents"]]
print(json.dumps({"aliases": list(version.aliases), "image": version.tags["image"], "kept": kept}))
"""
ATTACHED = "label=com.docker.compose.project="


class Compose:
    """`docker compose` on a copy of the folder, so that secrets of the test stay with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.project = folder, f"fusion{os.getpid()}"
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        self.program = ["docker", "compose"] if plugin else ["docker-compose"]
        if not plugin and not shutil.which("docker-compose"):
            pytest.skip("needs Docker Compose; .ci/engine.sh installs it on Debian, as root")
        self.files = ["--file", "compose.yaml"]
        if network := os.environ.get("FUSION_BUILD_NETWORK"):
            (folder / "network.yaml").write_text(WITHOUT_BRIDGE.replace("NETWORK", network))
            self.files += ["--file", "network.yaml"]
        self.environment = os.environ | {"FUSION_IMAGE": IMAGE, "COMPOSE_DOCKER_CLI_BUILD": "0", "MLFLOW_PORT": "0"}
        if base := os.environ.get("FUSION_BASE"):
            self.environment["BASE"] = base

    def __call__(self, *arguments: str, expected: int = 0) -> str:
        command = [*self.program, "--project-name", self.project, *self.files, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout + (done.stderr if expected else "")

    def pipeline(self, *command: str, expected: int = 0, **environment: str) -> str:
        """What a command prints in a container of the pipeline's."""
        given = [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
        return self("run", "--rm", "-T", "-e", "OMP_NUM_THREADS=1", *given, "pipeline", *command, expected=expected)


@pytest.fixture(scope="module")
def compose(tmp_path_factory):
    """The whole of docs/compose.md, in its order, up to a registered model."""
    need_engine()
    built()
    folder = tmp_path_factory.mktemp("compose") / "compose"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns(".env"))
    subprocess.run([folder / "prepare.sh", folder.parent / "runs"], check=True)
    run = Compose(folder)
    try:
        run("build")
        yield run
    finally:
        run("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def said(compose):
    """What the pipeline printed; `run` starts the servers and waits until each is well."""
    return compose.pipeline("fusion", "run", "--runs", "/runs", *SMALL)


def test_the_pipeline_registers_a_model_at_the_server(compose, said):
    assert "ct-mri-fusion-quick version 1 (challenger)" in said
    table = json.loads((compose.folder.parent / "runs" / "latest" / "table.json").read_text())
    assert table["candidate"] == "network-local-saliency"
    told = json.loads(compose.pipeline("python3", "-c", ASK))
    assert told["aliases"] == ["challenger"] and told["image"] == IMAGE
    assert {"report.html", "gate.json", "weights.safetensors"} <= set(told["kept"])


def test_a_wrong_password_is_refused(compose, said):
    refused = compose.pipeline("fusion", "models", "list", expected=2, MLFLOW_TRACKING_PASSWORD="wrong")
    assert "refuses (401)" in refused and "wrong" not in refused


def test_every_server_is_locked_down(compose, said):
    facts = json.loads(docker("inspect", *compose("ps", "--quiet").split()))
    assert len(facts) == 4
    for each in facts:
        host, name = each["HostConfig"], each["Name"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and each["Config"]["User"] == "1000:1000", name
        assert "no-new-privileges" in host["SecurityOpt"][0], name


def test_what_is_registered_outlives_the_containers_and_goes_with_the_volumes(compose, said):
    compose("down", "--timeout", "10")
    assert json.loads(compose.pipeline("python3", "-c", ASK))["aliases"] == ["challenger"]
    compose("down", "--volumes", "--timeout", "5")
    owned = f"{ATTACHED}{compose.project}"
    left = docker("ps", "--all", "--quiet", "--filter", owned) + docker("volume", "ls", "--quiet", "--filter", owned)
    assert left == ""


def test_secrets_are_new_each_time_kept_and_nobody_elses(compose, tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "compose", ignore=shutil.ignore_patterns(".env"))
    first = subprocess.run([folder / "prepare.sh", tmp_path / "runs"], check=True, capture_output=True, text=True)
    secrets = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())
    others = (compose.folder / ".env").read_text()
    for name in ("POSTGRES_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SESSION_KEY", "S3_SECRET_KEY"):
        assert len(secrets[name]) == 48 and secrets[name] not in others + first.stdout
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    before = (folder / ".env").read_text()
    subprocess.run([folder / "prepare.sh", tmp_path / "runs"], check=True)
    assert (folder / ".env").read_text() == before
    ignored = subprocess.run(["git", "check-ignore", "-q", FOLDER / ".env"], cwd=ROOT)
    assert ignored.returncode == 0
