"""A Kubeflow Pipelines API over HTTP, and the command line as its user calls it, in a committed checkout."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from kfp_server import KfpServer
from wire import COMMIT

from pipelines.cli import main
from pipelines.compile import compile_pipeline
from pipelines.kubeflow import client, packages, schedules


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def make_server():
    """Start a server; its own defects fail the test."""
    servers = []

    def make(**facts) -> KfpServer:
        servers.append(KfpServer(**facts))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
        assert not server.errors


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture(scope="session")
def compile_once(tmp_path_factory):
    """Compile each pipeline with each image once for all tests; it takes a second."""
    kept = tmp_path_factory.mktemp("compiled")
    known: dict[tuple[str, str], Path] = {}

    def copy(output: Path, name: str = "training", image: str = "") -> None:
        if (name, image) not in known:
            compile_pipeline(kept / f"{len(known)}.yaml", name, image)
            known[name, image] = kept / f"{len(known)}.yaml"
        shutil.copy(known[name, image], output)

    return copy


@pytest.fixture
def nowhere(monkeypatch, tmp_path, compile_once):
    """An environment without Kubeflow, without proxies, with a clean commit, and with no pause between attempts."""
    for name in [
        name for name in os.environ if name.startswith(("FUSION_", "KF_PIPELINES_")) or "proxy" in name.lower()
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(packages, "git_commit", lambda: COMMIT)
    monkeypatch.setattr(packages, "compile_pipeline", compile_once)
    monkeypatch.setattr(client, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(schedules, "_QUIET", 0.0)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def run_command(nowhere, capsys):
    """Run the command line in this process, whose environment names no Kubeflow."""

    def call(*arguments: object) -> Done:
        nowhere.setattr("sys.argv", ["fusion", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        if isinstance(code, str):
            code, err = 1, err + code + "\n"
        return Done(code or 0, out, err)

    return call


@pytest.fixture
def fusion(run_command, nowhere, server):
    """The same, where the environment names the server."""
    nowhere.setenv("FUSION_KFP_HOST", server.url)
    return run_command


@pytest.fixture
def refused(run_command):
    """Run what is refused: one line, exit code 2, nothing on standard output."""

    def call(*arguments: object) -> str:
        done = run_command(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    return call
