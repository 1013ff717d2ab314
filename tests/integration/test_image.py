"""The container image, really built: what is in it, what it may do, and the whole pipeline in containers of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.code import code_version
from components.register import fetch
from components.tracking import connected
from model.fuser import Fuser, weights_sha256
from tests.engine import IMAGE, LOCKED_DOWN, PLANTED, ROOT, built, docker, run_pipeline, unlocked

pytestmark = pytest.mark.integration

INSPECT = r"""
find / -xdev -type f -perm /6000 2>/dev/null | sed 's/^/privileged /'
for name in gcc cc c++ ld make git pip pip3 curl wget ensurepip; do
    command -v $name | sed 's/^/program /'
done
find / -xdev \( -name .git -o -name tests -path '/opt/atlas-fusion/*' -o -name wheels -o -path '*/.cache/pip' \
    -o -name '*.whl' -o -path '*/site-packages/pip' \) 2>/dev/null | sed 's/^/leftover /'
find / -xdev -writable \( -type f -o -type d \) ! -path '/proc/*' ! -path '/dev/*' ! -path '/tmp*' 2>/dev/null |
    sed 's/^/writable /'
"""
BYTECODE = """
from importlib.util import cache_from_source
from pathlib import Path
kinds = {0: "checked by time", 1: "taken as it is"}
found = set()
for source in (source for place in ("environment/lib", "atlas-fusion") for source in Path("/opt", place).rglob("*.py")):
    kept = Path(cache_from_source(str(source)))
    if "py312_" not in source.name and source.stat().st_size:
        found.add(kinds[kept.read_bytes()[4]] if kept.exists() else f"missing: {source}")
print(sorted(found))
"""
STEPS = {"ingest", "validate", "preprocess", "train", "champion", "evaluate", "register"}
QUICK = {"phantom_subjects": 4, "phantom_slices": 5, "min_pairs": 8, "epochs": 1, "strategies": "default,average"}


@pytest.fixture(scope="module")
def image():
    """What `infra/image.sh` says, once it has built the image; the environment of the build holds secrets."""
    return built()


@pytest.fixture(scope="module")
def facts(image):
    """The engine's description of the image."""
    return json.loads(docker("image", "inspect", IMAGE))[0]


def in_container(*command, options=()):
    return docker("run", "--rm", *LOCKED_DOWN, *options, IMAGE, *command)


def test_the_list_of_what_is_in_it_keeps_the_schema(image, facts, capsys):
    validation = pytest.importorskip("cyclonedx.validation.json", reason="needs cyclonedx-python-lib")
    schema = pytest.importorskip("cyclonedx.schema")
    told = Path(image.bill).read_text()
    problem = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(told)
    assert problem is None, problem
    bill = json.loads(told)
    versions = {part["purl"].partition("@")[0]: part["version"] for part in bill["components"]}
    assert versions["pkg:pypi/torch"] == "2.13.0+cpu" and versions["pkg:pypi/atlas-fusion"] == "0.1.0"
    assert versions["pkg:deb/debian/libc6"].startswith("2.36") and "pkg:deb/debian/python3.11" in versions
    assert "pkg:pypi/pip" not in versions and "pkg:pypi/pytest" not in versions
    assert bill["metadata"]["component"]["version"] == facts["Id"]
    with capsys.disabled():
        print(f"\n{image.said}; {len(versions)} packages")


def test_who_looks_at_it_learns_what_it_is(image, facts):
    settings = facts["Config"]
    labels = {name.rpartition(".")[2]: value for name, value in settings["Labels"].items()}
    assert labels["version"] == "0.1.0" and labels["licenses"] == "Apache-2.0"
    assert labels["revision"] == image.revision and "source" in labels
    assert settings["User"] == "1000:1000" and not settings["Entrypoint"] and "HOME=/tmp" in settings["Env"]


def test_nothing_is_in_it_that_a_step_does_not_need(image):
    assert in_container("sh", "-c", INSPECT) == ""


def test_nothing_is_compiled_when_it_runs(image):
    assert in_container("python3", "-c", BYTECODE) == "['taken as it is']\n"


def test_no_secret_of_the_build_is_in_it(image):
    told = docker("history", "--no-trunc", IMAGE) + docker("image", "inspect", IMAGE)
    assert not [name for name, secret in PLANTED.items() if secret in told]
    search = 'grep -rlFs "$@" /etc /opt /root /srv /var /home || true'
    sought = [part for secret in PLANTED.values() for part in ("-e", secret)]
    assert in_container("sh", "-c", search, "-", *sought, options=["--user", "0"]) == ""


def test_it_knows_its_code_without_a_checkout(image):
    assert in_container("fusion", "--version") == f"atlas-fusion 0.1.0 (commit {image.revision})\n"
    ask = "from components.code import code_version; print(code_version())"
    assert in_container("python3", "-c", ask).strip() == code_version()


@pytest.mark.parametrize("user", ["1000:1000", "123456:0"])
def test_it_fuses_as_any_user_on_a_read_only_system_without_a_network(image, tmp_path, user):
    out = unlocked(tmp_path / "out")
    levels = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    for name, each in zip(("ct", "mr"), levels, strict=True):
        Image.fromarray(each).save(out / f"{name}.png")
    command = ["fusion", "fuse", "/out/ct.png", "/out/mr.png", "-o", "/out/fused.png"]
    in_container(*command, options=["--user", user, "--volume", f"{out}:/out"])
    here = [sys.executable, "-m", "pipelines.cli", "fuse", out / "ct.png", out / "mr.png", "-o", tmp_path / "here.png"]
    subprocess.run(here, check=True, cwd=ROOT)
    fused, expected = (np.asarray(Image.open(path), dtype=int) for path in (out / "fused.png", tmp_path / "here.png"))
    assert abs(fused - expected).max() <= 1


@pytest.fixture(scope="module")
def ended(image, tmp_path_factory):
    """The training pipeline, a container a step, without a network, and with secrets in the environment."""
    return run_pipeline(unlocked(tmp_path_factory.mktemp("run")), QUICK | {"git_commit": image.revision})


def test_every_step_ran_in_a_container_of_the_image(ended):
    states = dict(re.findall(r"Task '(\S+)' finished with status (\w+)", ended.log))
    assert set(states) >= STEPS and set(states.values()) == {"SUCCESS"}
    assert ended.log.count(f"Found image '{IMAGE}'") == len(states) and ended.exit_codes == ["0"] * len(states)


def test_what_the_containers_left_is_whole(ended, image):
    fused = Fuser.load(ended.output("train", "model"))(*torch.rand(2, 1, 1, 64, 64))
    assert fused.shape == (1, 1, 64, 64) and fused.isfinite().all()
    table = json.loads((ended.output("evaluate", "evaluation") / "table.json").read_text())
    judged = {row["name"] for row in table["methods"]}
    assert {"network-local-saliency", "network-average", "average", "maximum", "laplacian", "guided-filter"} <= judged
    assert all(
        len(values) == len(table["pairs"]) > 0 for row in table["methods"] for values in row["per_pair"].values()
    )
    assert "<html" in ended.output("validate", "data_docs").read_text()[:500]


def test_the_gate_judged_and_the_version_is_registered(ended):
    registration = json.loads(ended.output("register", "registration").read_text())
    checks = {check["name"]: check["passed"] for check in registration["checks"] if check["required"]}
    assert checks["held-out pairs"] and not checks["vif above average"]
    assert not registration["promoted"] and "vif" in registration["reason"]
    assert (registration["version"], registration["aliases"]) == ("1", ["challenger"])


def test_the_registry_that_they_wrote_serves_from_outside(ended, image, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ended.tracking_uri)
    with connected("") as client:
        version = client.get_model_version("ct-mri-fusion-quick", "1")
    assert version.tags["git_commit"] == image.revision and version.tags["image"] == IMAGE
    fetched = fetch.resolve_model("models:/ct-mri-fusion-quick/1", tmp_path)
    assert weights_sha256(fetched) == weights_sha256(ended.output("train", "model"))


def test_no_secret_of_the_environment_is_in_what_it_left_or_said(ended):
    store = ended.store
    environment = PLANTED | {"MLFLOW_TRACKING_URI": ended.tracking_uri}
    command = ["fusion", "models", "promote", "1", "--reason", "to tell the webhook", "--yes"]
    handed = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
    said = docker("run", "--rm", *LOCKED_DOWN, *handed, "--volume", f"{store}:{store}", IMAGE, *command, errors=True)
    assert "webhook not told" in said
    for name, secret in PLANTED.items():
        assert secret not in ended.log + said, name
        assert not [path for path in store.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()], name
