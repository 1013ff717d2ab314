"""The servers and the pipeline of infra/compose, really run: a registered model from nothing, and nothing afterwards."""

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
import json, mlflow
client = mlflow.MlflowClient()
version = client.get_model_version("ct-mri-fusion-quick", "1")
names = [entry.path for entry in client.list_artifacts(version.run_id)]
print(json.dumps({"aliases": version.aliases, "image": version.tags["image"], "files": names}))
"""


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

    def __call__(self, *arguments: str) -> str:
        command = [*self.program, "--project-name", self.project, *self.files, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout


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
    return compose("run", "--rm", "-T", "pipeline", "fusion", "run", "--runs", "/runs", *SMALL)


def test_the_pipeline_registers_a_model_at_the_server(compose, said):
    assert "ct-mri-fusion-quick version 1 (challenger)" in said
    (table,) = (compose.folder.parent / "runs" / "latest").resolve().glob("table.json")
    assert json.loads(table.read_text())["candidate"] == "network-local-saliency"
    told = json.loads(compose("run", "--rm", "-T", "pipeline", "python3", "-c", ASK))
    assert told["aliases"] == ["challenger"] and told["image"] == IMAGE
    assert {"report.html", "gate.json"} <= set(told["files"])
