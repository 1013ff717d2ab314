"""What the compiled pipelines ask of a cluster for their steps: no root, no key but by reference."""

from pathlib import Path

import pytest
import yaml

PIPELINES = sorted((Path(__file__).resolve().parents[2] / "pipelines").glob("*.yaml"))


@pytest.fixture(params=PIPELINES, ids=lambda path: path.stem)
def compiled(request):
    specification, platform = yaml.safe_load_all(request.param.read_text())
    steps = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return specification["deploymentSpec"]["executors"], steps


def test_every_step_runs_as_the_user_of_the_image(compiled):
    executors, steps = compiled
    assert set(steps) == set(executors)
    for name, step in steps.items():
        context = step["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == ("1000", "1000", True), name


def test_no_step_has_a_credential_in_its_specification(compiled):
    executors, steps = compiled
    for name, step in executors.items():
        assert not step["container"].get("env"), name
    for step in steps.values():
        assert all(each["secretName"] == "atlas-fusion" for each in step.get("secretAsEnv", []))
