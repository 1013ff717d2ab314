"""The job that copies the registry's backups to S3, and fetches one from there, against a real S3 server (moto)."""

import hashlib
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra" / "kubernetes"))
import validate
from policies import pods

ROOT = validate.HERE.parents[1]
SCRIPT = validate.HERE / "base" / "registry" / "copies.py"
OLD, NEW = "mlflow-20260101T021700Z.dump", "mlflow-20260102T021700Z.dump"


@pytest.fixture
def bucket(s3):
    name = f"backup-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def folder(tmp_path):
    """Two finished backups and one that is being written."""
    folder = tmp_path / "backups"
    folder.mkdir()
    for name in (OLD, NEW):
        (folder / name).write_bytes(name.encode() * 5000)
        add_checksum(folder / name)
    (folder / "mlflow-20260103T021700Z.dump").write_text("its checksum is not there yet")
    return folder


def add_checksum(dump: Path) -> None:
    sums = f"{hashlib.sha256(dump.read_bytes()).hexdigest()}  {dump.name}\n"
    dump.with_name(f"{dump.name}.sha256").write_text(sums)


def run(word: str, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, SCRIPT, word], env=environment, capture_output=True, text=True)


def put(bucket: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return run("put", BACKUP_S3=f"s3://{bucket}/mlflow", BACKUPS=str(folder), **environment)


def get(bucket: str, folder: Path, backup: str) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    return run("get", BACKUP_S3=f"s3://{bucket}/mlflow", SOURCE="s3", BACKUP=backup, FETCHED=str(folder))


def there(s3, bucket: str) -> set[str]:
    return {each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])}


def refused(done: subprocess.CompletedProcess, words: str) -> None:
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert words in done.stderr and "hush" not in done.stderr


def test_what_s3_lacks_is_copied_once_and_comes_back_as_it_was(s3, bucket, folder, tmp_path):
    done = put(bucket, folder)
    assert done.returncode == 0, done.stderr
    assert there(s3, bucket) == {f"mlflow/{name}{suffix}" for name in (OLD, NEW) for suffix in ("", ".sha256")}
    assert put(bucket, folder).stdout == ""
    for asked, name in (("latest", NEW), (OLD, OLD)):
        target = tmp_path / asked
        assert get(bucket, target, asked).returncode == 0
        assert sorted(path.name for path in target.iterdir()) == [name, f"{name}.sha256"]
        assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in target.iterdir())


def test_copies_of_what_left_the_volume_stay_on_s3(s3, bucket, folder):
    put(bucket, folder)
    before = there(s3, bucket)
    for path in folder.glob(f"{OLD}*"):
        path.unlink()
    assert put(bucket, folder).returncode == 0
    assert there(s3, bucket) == before


def test_one_whose_checksum_is_missing_on_s3_counts_for_nothing_and_is_copied_again(s3, bucket, folder, tmp_path):
    put(bucket, folder)
    s3.put_object(Bucket=bucket, Key=f"mlflow/{NEW}", Body=b"cut off")
    s3.delete_object(Bucket=bucket, Key=f"mlflow/{NEW}.sha256")
    refused(get(bucket, tmp_path / "fetched", NEW), f"there are: {OLD}\n")
    assert NEW in put(bucket, folder).stdout
    assert s3.get_object(Bucket=bucket, Key=f"mlflow/{NEW}")["Body"].read() == (folder / NEW).read_bytes()


def test_a_failed_copy_is_told_in_a_line_leaves_the_volume_and_is_made_good_later(s3, bucket, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused(put("no-such-bucket", folder), "no bucket 'no-such-bucket'")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert put(bucket, folder).returncode == 0
    assert f"mlflow/{OLD}.sha256" in there(s3, bucket)


def test_what_comes_back_changed_gets_no_checksum(s3, bucket, folder, monkeypatch):
    """A server that takes what it is given and keeps something else."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import copies

    def keep_another(self, key, file, md5, what) -> None:
        self.upload(key, file.read_bytes()[:-1] + b"?", what)

    monkeypatch.setattr(copies.Bucket, "upload_file", keep_another)
    monkeypatch.setenv("BACKUPS", str(folder))
    with pytest.raises(copies.InputError, match=f"{NEW} is not what was put there"):
        copies.put(f"s3://{bucket}/mlflow")
    assert there(s3, bucket) == {f"mlflow/{NEW}"}


def test_a_dump_that_was_damaged_on_the_volume_is_not_copied(s3, bucket, folder):
    (folder / NEW).write_text("rotten")
    refused(put(bucket, folder), f"{NEW} is damaged")
    assert there(s3, bucket) == set()


def test_without_a_bucket_nothing_is_copied_and_nothing_fetched(aws, folder):
    done = run("put", BACKUPS=str(folder))
    assert done.returncode == 0 and "on their volume alone" in done.stdout
    refused(run("get", SOURCE="s3", BACKUP="latest", FETCHED=str(folder)), "BACKUP_S3 is not set")
    assert run("get", SOURCE="volume").returncode == 0
    refused(run("get", SOURCE="tape"), "SOURCE is 'tape'; give volume or s3")


def test_the_job_dumps_first_then_copies_and_a_failed_copy_fails_it_at_once():
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    things = validate.build(validate.HERE / "overlays" / "production")
    (job,) = [
        each["spec"] for each in things if (each["kind"], each["metadata"]["name"]) == ("CronJob", "mlflow-backup")
    ]
    (pod,) = [each.spec for each in pods(things) if each.owner == "CronJob mlflow-backup"]
    assert [each["name"] for each in pod["initContainers"]] == ["backup"]
    assert [each["name"] for each in pod["containers"]] == ["copy"] and pod["restartPolicy"] == "Never"
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "backups"]
    assert mount["readOnly"], "what copies cannot harm the volume"
    fails = job["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][-1]
    assert fails["action"] == "FailJob" and fails["onExitCodes"]["containerName"] == "copy"
    named = {source["secretRef"]["name"] for source in pod["containers"][0]["envFrom"] if "secretRef" in source}
    assert named == {"mlflow-backup-s3"}, "a key of its own, and no password of PostgreSQL"
