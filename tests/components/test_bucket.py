"""Checkpoints on a real S3 server: whole or not at all, the newest whole one counts, and a lost bucket ends nothing."""

import os
import socket
import uuid
from contextlib import suppress

import pytest
import torch

from components.train.bucket import CheckpointBucket, checkpoints
from model.checkpoint import CheckpointFolder
from model.checkpoint_format import Checkpoint
from model.errors import InputError
from tests.checkpoints import assert_same

IDENTITY = {"network": "dilran", "processes": 1}


def checkpoint(step: int, size: int = 50) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(step, {"weights": torch.randn(size, generator=generator)}, {"position": step})


@pytest.fixture
def bucket(client, aws):
    name = f"checkpoints-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def lines():
    return []


@pytest.fixture
def place(bucket, tmp_path, lines):
    """Makes the checkpoints of a run, as seen from a machine with a scratch folder of its own."""

    def make(scratch: str = "scratch", prefix: str = "team/run-7", **identity) -> CheckpointBucket:
        url = f"s3://{bucket}/{prefix}"
        return checkpoints(url, IDENTITY | identity, tmp_path / scratch, report=lines.append)

    return make


@pytest.fixture
def keys(client, bucket):
    return lambda: [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", ())]


def spoil(client, bucket, key: str) -> None:
    """Flip a bit of an object, as if its disk had."""
    answer = client.get_object(Bucket=bucket, Key=key)
    content = bytearray(answer["Body"].read())
    content[-1] ^= 1
    client.put_object(Bucket=bucket, Key=key, Body=bytes(content), Metadata=answer["Metadata"])


def test_the_newest_comes_back_on_another_machine_and_two_are_kept(place, keys, lines):
    assert place().latest() is None
    for step in (100, 200, 1200):
        place().save(checkpoint(step))
    assert keys() == [f"team/run-7/step-0000{step}.safetensors" for step in ("0200", "1200")]
    assert_same(place("another machine's").latest(), checkpoint(1200))
    assert_same(place().latest(), checkpoint(1200))
    assert not lines


@pytest.mark.parametrize("prefix", ["", "run/", "a/b/c"])
def test_neighbours_of_the_prefix_are_left_alone(place, keys, client, bucket, prefix):
    others = [f"{prefix.strip('/')}-2/step-00000001.safetensors", "step-notes.txt", "x/step-00000009.safetensors"]
    for key in others:
        client.put_object(Bucket=bucket, Key=key, Body=b"another's")
    here = place(prefix=prefix)
    assert here.latest() is None
    for step in (1, 2, 3):
        here.save(checkpoint(step))
    assert len(keys()) == len(others) + 2 and set(others) <= set(keys())
    assert_same(place("another machine's", prefix=prefix).latest(), checkpoint(3))


def test_what_does_not_fit_into_one_answer_of_the_server_is_seen(place, client, bucket, monkeypatch, keys):
    here = place()
    for step in (1, 2):
        here.save(checkpoint(step))
        client.put_object(Bucket=bucket, Key=f"team/run-7/step-{step:08d}.note", Body=b"another's")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "1")
    assert len(keys()) == 1
    assert_same(place("another machine's").latest(), checkpoint(2))


def test_a_damaged_object_is_refused_by_name_and_the_one_before_is_used(place, client, bucket, lines, keys):
    here = place()
    for step in (1, 2):
        here.save(checkpoint(step))
    spoil(client, bucket, "team/run-7/step-00000002.safetensors")
    elsewhere = place("another machine's")
    assert_same(elsewhere.latest(), checkpoint(1))
    (line,) = lines
    assert f"s3://{bucket}/team/run-7/step-00000002.safetensors is refused" in line and "is corrupted" in line
    elsewhere.save(checkpoint(3))
    assert len(keys()) == 3  # the damaged one does not count towards the two


def test_an_object_put_there_by_other_means_counts_if_it_is_whole(place, client, bucket, tmp_path, lines):
    folder = CheckpointFolder(tmp_path / "local", IDENTITY)
    folder.save(checkpoint(4))
    client.put_object(Bucket=bucket, Key="team/run-7/step-00000004.safetensors", Body=folder.path(4).read_bytes())
    client.put_object(Bucket=bucket, Key="team/run-7/step-00000005.safetensors", Body=b"no checkpoint")
    assert_same(place().latest(), checkpoint(4))
    assert len(lines) == 1 and "step-00000005.safetensors is refused" in lines[0]


def test_the_local_copy_is_used_where_it_is_as_new_and_the_bucket_where_that_is_damaged(place, tmp_path, lines):
    here = place()
    here.save(checkpoint(1))
    here.save(checkpoint(2))
    (tmp_path / "scratch" / "step-00000002.safetensors").write_bytes(b"spoiled")
    assert_same(here.latest(), checkpoint(2))
    (line,) = lines
    assert str(tmp_path / "scratch" / "step-00000002.safetensors") in line


def test_a_foreign_one_is_refused_with_what_differs(place, bucket):
    place().save(checkpoint(1))
    with pytest.raises(InputError, match='network is "dilran" there and "msrpan" here; name another folder') as told:
        place("another machine's", network="msrpan").latest()
    assert f"s3://{bucket}/team/run-7/step-00000001.safetensors" in str(told.value)


def test_a_connection_cut_during_the_upload_is_tried_again(aws, place, proxy, keys, lines):
    cutting = proxy(after=40_000, cuts=1, asking=True)
    aws.setenv("AWS_ENDPOINT_URL_S3", cutting.address)
    place().save(checkpoint(1, size=50_000))
    assert cutting.cuts == 0 and len(keys()) == 1 and not lines
    assert_same(place("another machine's").latest(), checkpoint(1, size=50_000))


def test_an_upload_that_keeps_breaking_leaves_nothing_in_the_bucket(aws, place, proxy, keys, lines, s3_server):
    place().save(checkpoint(1))
    aws.setenv("AWS_ENDPOINT_URL_S3", proxy(after=40_000, cuts=100, asking=True).address)
    place().save(checkpoint(2, size=50_000))
    assert len(keys()) == 1
    (line,) = lines
    assert line.startswith("the checkpoint of step 2 is only on this machine, in ")
    aws.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    assert_same(place("another machine's").latest(), checkpoint(1))


def test_training_survives_a_bucket_that_goes_away_and_the_next_save_catches_up(aws, place, proxy, keys, lines, bucket):
    door = proxy()
    aws.setenv("AWS_ENDPOINT_URL_S3", door.address)
    here = place()
    here.save(checkpoint(1))
    door.close()
    here.save(checkpoint(2))
    here.save(checkpoint(3))
    assert len(lines) == 2 and not any("\n" in line for line in lines)
    for step, line in zip((2, 3), lines, strict=True):
        assert f"the checkpoint of step {step} is only on this machine, in {here.scratch}" in line
        assert f"not in s3://{bucket}/team/run-7: cannot write the checkpoint of step {step} to http://127" in line
        assert line.endswith("the next save tries again")
    with pytest.raises(InputError, match=r"cannot list checkpoints in s3://.*check the network"):
        here.latest()
    door.open()
    lines.clear()
    assert_same(here.latest(), checkpoint(3))
    assert len(lines) == 1 and "which never reached s3://" in lines[0]
    assert_same(place("another machine's").latest(), checkpoint(1))
    here.save(checkpoint(4))
    assert "is back; it has the checkpoint of step 4" in lines[-1]
    assert [key[-20:] for key in keys()] == ["00000001.safetensors", "00000004.safetensors"]
    here.save(checkpoint(5))
    assert len(lines) == 2 and len(keys()) == 2


def test_a_server_that_says_nothing_is_asked_again_once_and_after_that_once_a_save(aws, place, lines, monkeypatch):
    monkeypatch.setattr("components.train.bucket._SECONDS", 0.2)
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        aws.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        silent.setblocking(False)
        here = place()
        for step in (1, 2, 3):
            here.save(checkpoint(step))
            with suppress(BlockingIOError):
                while True:
                    silent.accept()[0].close()
                    asked.append(step)
    assert asked == [1, 1, 2, 3]
    assert len(lines) == 3 and all("ReadTimeoutError" in line for line in lines)


def test_a_bucket_or_credentials_that_do_not_fit_are_told_before_training(aws, tmp_path, bucket):
    with pytest.raises(InputError, match="no bucket 'elsewhere' at http://127"):
        checkpoints("s3://elsewhere/run", IDENTITY, tmp_path).latest()
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match="no usable AWS credentials"):
        checkpoints(f"s3://{bucket}/run", IDENTITY, tmp_path).latest()


def test_a_scratch_that_cannot_be_written_to_is_told(place, tmp_path, keys):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*/file/step-00000001\.safetensors"):
        place("file").save(checkpoint(1))
    assert keys() == []


def test_the_place_says_where_checkpoints_are_kept(tmp_path, aws):
    for folder in (tmp_path / "x", str(tmp_path / "x"), "relative/x", "."):
        assert isinstance(checkpoints(folder, IDENTITY, tmp_path), CheckpointFolder)
    assert isinstance(checkpoints("s3://bucket/run", IDENTITY, tmp_path), CheckpointBucket)
    for wrong in ("gs://bucket/run", "https://host/run", "file:///tmp/x"):
        with pytest.raises(InputError, match=r"give a folder or s3://bucket/prefix"):
            checkpoints(wrong, IDENTITY, tmp_path)
    with pytest.raises(InputError, match=r"is no S3 address; give s3://bucket/prefix for the checkpoints"):
        checkpoints("s3://", IDENTITY, tmp_path)
    assert not os.path.lexists("relative")


def test_the_run_in_mlflow_is_known_on_another_machine_until_all_is_cleared(place, keys, tmp_path):
    first = place()
    first.bring("mlflow_run.json")
    first.save(checkpoint(1))
    assert keys() == ["team/run-7/step-00000001.safetensors"]
    (tmp_path / "scratch" / "mlflow_run.json").write_text('{"run_id": "7"}')
    first.save(checkpoint(2))
    second = place("another machine's")
    second.bring("mlflow_run.json")
    assert (tmp_path / "another machine's" / "mlflow_run.json").read_text() == '{"run_id": "7"}'
    second.clear()
    assert keys() == []
