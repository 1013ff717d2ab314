"""Every alert fires when it should and stays quiet otherwise, by Prometheus' own promtool, and the runbook has it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra" / "kubernetes"))
from policies import alerts

ROOT = Path(__file__).resolve().parents[2]
RULES = yaml.safe_load((ROOT / "infra" / "kubernetes" / "monitoring" / "alerts.yaml").read_text())
OURS, PIPELINES = 'namespace="atlas-fusion-registry"', 'namespace="atlas-fusion"'
MLFLOW = f'kube_deployment_status_replicas_available{{{OURS}, deployment="mlflow"}}'
RESTARTS = f'kube_pod_container_status_restarts_total{{{OURS}, pod="mlflow-1", container="mlflow"}}'
BACKUP = f'kube_cronjob_status_last_successful_time{{{OURS}, cronjob="mlflow-backup"}}'
MADE = f'kube_cronjob_created{{{OURS}, cronjob="mlflow-backup"}}'
FREE, SIZE = (
    f'kubelet_volume_stats_{word}_bytes{{{OURS}, persistentvolumeclaim="mlflow-backup"}}'
    for word in ("available", "capacity")
)
SERVES = (
    f'kube_deployment_status_replicas_available{{{PIPELINES}, deployment="ct-mri-fusion-predictor-00002-deployment"}}'
)
COUNT = f"kn_serving_invocation_duration_seconds_count{{{PIPELINES}, "
BUCKET = f"kn_serving_invocation_duration_seconds_bucket{{{PIPELINES}, "
DAY = 1440  # minutes, the step of every series below


def failed(job: str, namespace: str = OURS) -> str:
    return f'kube_job_failed{{{namespace}, job_name="{job}", condition="true"}}'


def pod(name: str, owner: str, phase: str = "Failed", namespace: str = PIPELINES) -> dict[str, str]:
    return {
        f'kube_pod_status_phase{{{namespace}, pod="{name}", phase="{phase}"}}': "1x2880",
        f'kube_pod_owner{{{namespace}, pod="{name}", owner_kind="{owner}", owner_name="run-7"}}': "1x2880",
        f'kube_pod_created{{{namespace}, pod="{name}"}}': "0x2880",
    }


STORIES = {
    "MLflowDown": [
        ({MLFLOW: "1x10 0x20"}, 12, False),
        ({MLFLOW: "1x10 0x20"}, 20, True),
        ({MLFLOW: "1x40"}, 30, False),
        ({SERVES: "1x40"}, 30, True),  # nobody counts its replicas
    ],
    "MLflowRestarts": [({RESTARTS: "0x10 1 2 3 4x60"}, 30, True), ({RESTARTS: "0x10 1x60"}, 30, False)],
    "BackupTooOld": [
        ({BACKUP: "0x3000", MADE: "0x3000"}, DAY, False),
        ({BACKUP: "0x3000", MADE: "0x3000"}, DAY + 150, True),
        ({BACKUP: "0+60x3000", MADE: "0x3000"}, DAY + 150, False),
        ({MADE: "0x3000"}, DAY + 150, True),  # it never succeeded
        ({MADE: "0x3000"}, DAY, False),
        ({MLFLOW: "1x60"}, 30, True),  # there is no such CronJob
        ({MADE: "0x30", BACKUP: "0x30", MLFLOW: "1x90"}, 60, True),  # it was deleted
    ],
    "BackupFailed": [
        ({failed("mlflow-backup-29398"): "1x9"}, 5, True),
        ({failed("champion-check-29398"): "1x9"}, 5, False),
        ({failed("mlflow-backup-29398"): "0x9"}, 5, False),
        ({failed("mlflow-backup-29398", PIPELINES): "1x9"}, 5, False),  # not the registry's
    ],
    "ChampionUnchanged": [
        ({failed("champion-check-29398"): "1x9"}, 5, True),
        ({failed("mlflow-backup-29398"): "1x9"}, 5, False),
    ],
    "VolumeNearlyFull": [
        ({FREE: "5x30", SIZE: "100x30"}, 20, True),
        ({FREE: "50x30", SIZE: "100x30"}, 20, False),
    ],
    "StepFailed": [
        (pod("train-1", "Workflow"), 30, True),
        (pod("train-1", "Workflow"), DAY + 60, False),
        (pod("train-1", "Workflow", "Succeeded"), 30, False),
        (pod("mlflow-1", "ReplicaSet"), 30, False),
    ],
    "TrainJobFailed": [
        ({failed("train-run-7-ab12-node-0", PIPELINES): "1x9"}, 5, True),
        ({failed("retrain", PIPELINES): "1x9"}, 5, False),
    ],
    "PodStuck": [
        (pod("train-1", "Workflow", "Pending"), 45, True),
        (pod("train-1", "Workflow", "Pending"), 20, False),
        (pod("train-1", "Workflow", "Running"), 45, False),
        (pod("mlflow-1", "ReplicaSet", "Pending", OURS), 45, True),
    ],
    "ServingDown": [
        ({SERVES: "0x20"}, 10, True),
        ({SERVES: "1x20", SERVES.replace("00002", "00001"): "0x20"}, 10, False),  # an earlier revision, scaled to none
        ({MLFLOW: "1x20"}, 10, True),  # there is no such Deployment
        ({SERVES: "1x5", MLFLOW: "1x30"}, 20, True),  # it was deleted
        ({SERVES: "1x20", MLFLOW: "1x20"}, 10, False),
    ],
    "ServingErrors": [
        ({f'{COUNT}http_response_status_code="{code}"}}': f"0+{rate}x60" for code, rate in codes.items()}, 40, fires)
        for codes, fires in (({200: 90, 503: 10}, True), ({200: 90, 400: 90}, False))
    ],
    "ServingSlow": [
        ({f'{BUCKET}le="{edge}"}}': f"0+{rate}x60" for edge, rate in ((5, slow), (10, 100), ("+Inf", 100))}, 40, fires)
        for slow, fires in ((50, True), (99, False))
    ],
}  # fmt: skip


def test_every_alert_is_tried():
    assert set(STORIES) == {rule["alert"] for rule in alerts([RULES])}


@pytest.mark.parametrize("alert", STORIES)
def test_an_alert_fires_when_it_should(alert: str, tmp_path):
    if not shutil.which("promtool"):
        pytest.skip("needs Debian's promtool; .ci/tools.sh installs it")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": RULES["spec"]["groups"]}))
    for number, (series, minute, fires) in enumerate(STORIES[alert]):
        story = {
            "rule_files": ["rules.yaml"],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                            "eval_time": f"{minute}m",
                            "exp_samples": [{"labels": "{}", "value": int(fires)}],
                        }
                    ],
                }
            ],
        }
        (tmp_path / "story.yaml").write_text(yaml.safe_dump(story))
        done = subprocess.run(["promtool", "test", "rules", "story.yaml"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"story {number}: {done.stdout}{done.stderr}"


def test_the_runbook_says_of_every_alert_what_to_do_and_of_no_other():
    text = (ROOT / "docs" / "runbook.md").read_text()
    section = re.search(r"^## Alerts$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section
    assert re.findall(r"^### (\w+)$", section[1], re.MULTILINE) == [rule["alert"] for rule in alerts([RULES])]
