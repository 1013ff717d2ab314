"""`fusion data pull` and `push`, and DVC itself, with a remote on S3 that is really asked."""

import shutil

import boto3
import pytest

from components.ingest.pin import read_pin
from components.ingest.remote import latest_version, parse_remote
from components.ingest.version import folder_version
from model.errors import InputError
from tests.datasets import ask, dvc, fill, git, write_image


def test_dvc_itself_pushes_pulls_and_tells_the_status(checkout, bucket, tree, fusion, tmp_path):
    fill(checkout, tree)
    assert dvc(checkout, "remote", "modify", "--local", "atlas", "url", bucket).returncode == 0
    assert git(checkout, "status", "--short") == "", "the bucket of this machine is nobody else's"
    pushed = dvc(checkout, "push")
    assert pushed.returncode == 0 and "11 files pushed" in pushed.stdout, pushed
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(checkout), str(other))
    shutil.copy(checkout / ".dvc" / "config.local", other / ".dvc")
    pulled = dvc(other, "pull")
    assert pulled.returncode == 0, pulled
    assert folder_version(other / "data") == folder_version(tree)
    assert dvc(other, "status").stdout == "Data and pipelines are up to date.\n"


def test_fusion_shares_that_cache_and_remote(checkout, bucket, tree, fusion, monkeypatch, tmp_path):
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", bucket)
    fill(checkout, tree)
    assert fusion("data", "push").stdout.startswith(f"{bucket} holds version")
    assert "lacks nothing" in fusion("data", "status", "--cloud").stdout
    s3, lost, spoilt = boto3.client("s3"), *sorted(set(read_pin(checkout).files.values()))[:2]
    s3.delete_object(Bucket="ours", Key=f"at/dvc/files/md5/{lost[:2]}/{lost[2:]}")
    s3.put_object(Bucket="ours", Key=f"at/dvc/files/md5/{spoilt[:2]}/{spoilt[2:]}", Body=b"spoilt")
    assert "lacks 2 files" in fusion("data", "status", "--cloud").stdout, "whatever DVC's index says"
    assert fusion("data", "push").returncode == 0
    assert "lacks nothing" in fusion("data", "status", "--cloud").stdout
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(checkout), str(other))
    monkeypatch.chdir(other)
    assert "5 pairs" in fusion("data", "pull").stdout
    assert folder_version(other / "data") == folder_version(tree)
    monkeypatch.delenv("ATLAS_FUSION_REMOTE")
    shutil.rmtree(other / "data")
    shutil.rmtree(other / ".dvc" / "cache")
    shutil.rmtree(other / ".git")
    assert fusion("data", "import", bucket).returncode == 0, "a checkout without git (an archive of it) works, too"
    assert folder_version(other / "data") == folder_version(tree)


def test_what_s3_refuses_is_one_line(checkout, bucket, tree, s3_server, refused, fusion, monkeypatch):
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", bucket)
    said = refused("data", "pull")
    assert f"{bucket} does not hold version" in said and "fusion data push" in said
    assert "run `fusion data import` first" in refused("data", "push")
    assert "there is no bucket for s3://absent/x; create it" in refused("data", "import", "s3://absent/x")
    ask(f"{s3_server}/moto-api/reset-auth", b"0")
    try:
        assert "S3 refuses the credentials for s3://ours/at/dvc" in refused("data", "pull")
    finally:
        ask(f"{s3_server}/moto-api/reset-auth", b"inf")
    assert not (checkout / "data").exists()
    fill(checkout, tree)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert "cannot reach http://127.0.0.1:9 for s3://ours" in refused("data", "push")
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", "ours/at/dvc")
    assert "give s3://BUCKET/PREFIX" in refused("data", "push")
    assert "DVC has no remote spare; there are atlas" in refused("data", "push", "--remote", "spare")


def test_the_version_pushed_last_is_the_latest(checkout, bucket, tree, fusion, refused, monkeypatch):
    monkeypatch.setenv("ATLAS_FUSION_REMOTE", bucket)
    latest = parse_remote(bucket)
    with pytest.raises(InputError, match="latest version, which `fusion data push` puts there, is missing in"):
        latest_version(latest)
    assert "fusion data push" in refused("run", "--data", bucket, "--data-version", "latest")
    fill(checkout, tree)
    assert fusion("data", "push").returncode == 0
    first = read_pin(checkout).version
    assert latest_version(latest) == first
    write_image(checkout / "data" / "CT-MRI" / "CT" / "2004.png", 99, "CT")
    assert fusion("data", "import", "data", "--new-version").returncode == 0
    assert latest_version(latest) == first, "what is not pushed is nobody's latest"
    assert fusion("data", "push").returncode == 0
    assert latest_version(latest) == read_pin(checkout).version != first
    boto3.client("s3").put_object(Bucket="ours", Key="at/dvc/data.dvc", Body=b"outs: []")
    with pytest.raises(InputError, match="pins no dataset"):
        latest_version(latest)
