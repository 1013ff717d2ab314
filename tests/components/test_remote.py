"""A version is fetched from a real S3 server: whole or not at all, verified, resumed, and refused in one line."""

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ingest import publish
from components.ingest.dataset import ingest
from components.ingest.listing import read_listing
from components.ingest.phantom import PhantomConfig
from components.ingest.remote import fetch_version, list_version, parse_remote
from components.ingest.version import data_files, file_md5, folder_version
from components.progress import parse
from model.errors import InputError
from pipelines.prepare import prepare

ROOT = Path(__file__).resolve().parent.parent.parent
PAIRS = 4
PHANTOM = PhantomConfig()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def files_of(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in data_files(folder)]


@pytest.fixture
def tree(tmp_path):
    """A data folder of two collections; one image of it stands there under two names."""
    folder = tmp_path / "original"
    for collection, modality in (("CT-MRI", "CT"), ("CT-MRI", "MRI"), ("PET-MRI", "PET"), ("PET-MRI", "MRI")):
        images = folder / collection / modality
        images.mkdir(parents=True)
        for number in range(PAIRS):
            (images / f"{number}001.png").write_bytes(f"{collection} {modality} {number} ".encode() * 900)
    shutil.copy(folder / "CT-MRI/MRI/0001.png", folder / "PET-MRI/MRI/0001.png")
    return folder


@pytest.fixture
def version(client, remote, tree):
    """The tree's version, on the remote."""
    return publish(client, remote, files_of(tree))


@pytest.fixture
def requests(caplog):
    """The keys that the server was asked for."""
    caplog.set_level(logging.INFO, "werkzeug")

    def asked() -> list[str]:
        found = [match[1] for line in caplog.messages if (match := re.search(r"GET (/\S+?)(?:\?\S*)? HTTP", line))]
        caplog.clear()
        return found

    return asked


def test_the_whole_version_arrives_and_each_content_once(remote, version, tree, tmp_path, requests, capsys):
    target = tmp_path / "target"
    assert fetch_version(remote, version, target) == list_version(remote, version)
    assert folder_version(target) == folder_version(tree) == version
    assert len(requests()) == 4 * PAIRS - 1 + 2  # one image has two names; the listing was asked for twice
    assert f"progress ingest {4 * PAIRS}/{4 * PAIRS}" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"original", "target"}


def test_only_what_lies_under_the_folder_is_fetched(remote, version, tmp_path, requests):
    entries = fetch_version(remote, version, tmp_path / "target", under="CT-MRI")
    assert {path.split("/")[0] for path in entries} == {"CT-MRI"}
    assert sorted(entries) == [path for path, _ in files_of(tmp_path / "target")]
    assert len(requests()) == 2 * PAIRS + 1


def test_a_folder_that_the_version_lacks_is_refused(remote, version, tmp_path):
    with pytest.raises(InputError, match="has no files under CT"):
        fetch_version(remote, version, tmp_path / "target", under="CT")


def test_a_target_that_differs_becomes_the_version_by_fetching_what_differs(remote, version, tmp_path, requests):
    target = tmp_path / "target"
    fetch_version(remote, version, target)
    requests()
    (target / "CT-MRI/CT/1001.png").write_text("altered")
    (target / "PET-MRI/PET/2001.png").unlink()
    fetch_version(remote, version, target)
    assert folder_version(target) == version
    assert len(requests()) == 3


def test_files_of_the_users_own_are_never_replaced(remote, version, tmp_path):
    target = tmp_path / "target"
    (target / "CT-MRI").mkdir(parents=True)
    (target / "CT-MRI" / ".notes").write_text("mine")
    with pytest.raises(InputError, match=r"\.notes is not part of version .*; move it away"):
        fetch_version(remote, version, target)
    assert (target / "CT-MRI" / ".notes").read_text() == "mine"


def test_a_corrupted_object_is_fetched_twice_then_named_and_the_rest_is_kept(
    client, remote, version, tree, tmp_path, requests
):
    spoiled = file_md5(tree / "CT-MRI/CT/3001.png")
    client.put_object(Bucket=remote.bucket, Key=remote.key(spoiled), Body=b"spoiled")
    requests()
    with pytest.raises(InputError, match=rf"CT-MRI/CT/3001\.png \(md5 {spoiled}\) is corrupted in s3://") as told:
        fetch_version(remote, version, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert "\n" not in str(told.value)
    first = requests()
    assert sum(remote.key(spoiled) in key for key in first) == 2
    client.put_object(Bucket=remote.bucket, Key=remote.key(spoiled), Body=(tree / "CT-MRI/CT/3001.png").read_bytes())
    requests()
    fetch_version(remote, version, tmp_path / "target")
    assert folder_version(tmp_path / "target") == version
    assert not set(requests()) & set(first) - {f"/{remote.bucket}/{remote.key(spoiled)}"}


def test_a_missing_object_is_named(client, remote, version, tree, tmp_path):
    lost = file_md5(tree / "PET-MRI/PET/3001.png")
    client.delete_object(Bucket=remote.bucket, Key=remote.key(lost))
    with pytest.raises(InputError, match=rf"PET-MRI/PET/3001\.png \(md5 {lost}\) is missing in the remote, at s3://"):
        fetch_version(remote, version, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    fetch_version(remote, version, tmp_path / "target", under="CT-MRI")


def test_a_version_that_is_not_there_or_not_itself_is_refused(client, remote, version, tmp_path):
    with pytest.raises(InputError, match=r"version 0{32}\.dir is missing in the remote"):
        fetch_version(remote, "0" * 32 + ".dir", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["original"]
    client.put_object(Bucket=remote.bucket, Key=remote.key(version), Body=b"[]")
    with pytest.raises(InputError, match=rf"version {version} is corrupted"):
        list_version(remote, version)
    with pytest.raises(InputError, match=r"'main' is no version of a folder; give <md5>\.dir"):
        list_version(remote, "main")


def test_a_missing_bucket_is_named(aws, remote, version, tmp_path):
    with pytest.raises(InputError, match="no bucket 'elsewhere' at http://127"):
        fetch_version(parse_remote("s3://elsewhere/team/dvc"), version, tmp_path / "target")


def test_an_endpoint_that_nobody_answers_is_named_without_its_password(aws, remote, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    aws.setenv("AWS_ENDPOINT_URL_S3", f"http://me:hush-hush@127.0.0.1:{port}")
    with pytest.raises(InputError, match=rf"from http://127\.0\.0\.1:{port}: EndpointConnectionError") as told:
        fetch_version(remote, "0" * 32 + ".dir", tmp_path / "target")
    assert "hush" not in str(told.value)


def test_credentials_that_the_server_does_not_know_are_told_without_repeating_them(
    remote, version, s3_server, tmp_path
):
    def authorise_after(actions: str) -> None:
        url, text = f"{s3_server}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, actions.encode(), text)).close()

    authorise_after("0")
    try:
        with pytest.raises(InputError, match=r"does not accept the AWS credentials \(InvalidAccessKeyId\)") as told:
            fetch_version(remote, version, tmp_path / "target")
    finally:
        authorise_after("inf")
    assert "hush" not in str(told.value) and "AKID" not in str(told.value)


def test_without_credentials_or_with_an_unknown_profile_the_remedy_is_told(aws, remote, tmp_path):
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match="no usable AWS credentials; set AWS_ACCESS_KEY_ID"):
        list_version(remote, "0" * 32 + ".dir")
    aws.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match=r"profile \(nobody\) could not be found; check AWS_PROFILE"):
        list_version(remote, "0" * 32 + ".dir")


def test_a_profile_gives_endpoint_region_addressing_and_credentials(aws, remote, version, s3_server, tmp_path):
    (tmp_path / "config").write_text(
        f"[profile lab]\nendpoint_url = {s3_server}\nregion = eu-central-1\ns3 =\n    addressing_style = path\n"
        "aws_access_key_id = AKIDLAB\naws_secret_access_key = x\n"
    )
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws.delenv(name)
    aws.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    aws.setenv("AWS_PROFILE", "lab")
    assert len(list_version(remote, version)) == 4 * PAIRS


def test_a_connection_cut_in_mid_transfer_is_taken_up_where_it_broke(aws, client, remote, proxy, tmp_path, requests):
    content = os.urandom(300_000)
    (tmp_path / "big.png").write_bytes(content)
    version = publish(client, remote, [("CT-MRI/CT/big.png", tmp_path / "big.png")])
    cutting = proxy(after=120_000, cuts=2)
    aws.setenv("AWS_ENDPOINT_URL_S3", cutting.address)
    requests()
    fetch_version(remote, version, tmp_path / "target")
    assert (tmp_path / "target/CT-MRI/CT/big.png").read_bytes() == content
    assert cutting.cuts == 0
    assert len(requests()) == 4  # the listing, and the object in three parts


def test_a_connection_that_keeps_breaking_is_told_and_a_second_run_goes_on(
    aws, client, remote, proxy, s3_server, tmp_path, requests, monkeypatch
):
    monkeypatch.setattr("components.ingest.s3.Bucket._back_off", lambda self, failures: None)
    big, small = tmp_path / "big.png", tmp_path / "small.png"
    big.write_bytes(os.urandom(300_000))
    small.write_bytes(b"small")
    version = publish(client, remote, [("CT/big.png", big), ("CT/small.png", small)])
    aws.setenv("AWS_ENDPOINT_URL_S3", proxy(after=20_000, cuts=1000).address)
    with pytest.raises(InputError, match=r"broke 5 times while CT/big\.png .*; run again to go on from there"):
        fetch_version(remote, version, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    (kept,) = tmp_path.glob(f".target.*/{file_md5(big)}")
    assert 0 < kept.stat().st_size < 300_000
    aws.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    requests()
    fetch_version(remote, version, tmp_path / "target")
    assert folder_version(tmp_path / "target") == version
    assert requests() == [f"/{remote.bucket}/{remote.key(file_md5(big))}"]


def test_a_full_disk_is_told_and_a_second_run_goes_on(client, remote, tmp_path, requests):
    mounted, originals = tmp_path / "disk", tmp_path / "big"
    mounted.mkdir()
    originals.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mounted], capture_output=True).returncode:
        pytest.skip("needs to be root, to mount a small disk")
    try:
        for number in range(20):
            (originals / f"{number}.png").write_bytes(os.urandom(30_000))
        version = publish(client, remote, files_of(originals))
        with pytest.raises(InputError, match=r"no space left for .*; free space there, then run again") as told:
            fetch_version(remote, version, mounted / "target")
        assert "\n" not in str(told.value)
        assert not (mounted / "target").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", mounted], check=True)
        requests()
        fetch_version(remote, version, mounted / "target")
        assert folder_version(mounted / "target") == version
        assert len(requests()) < 20
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_downloads_kept_elsewhere_serve_another_target(client, remote, version, tree, tmp_path, requests):
    lost = tree / "CT-MRI/CT/0001.png"
    client.delete_object(Bucket=remote.bucket, Key=remote.key(file_md5(lost)))
    with pytest.raises(InputError, match="missing"):
        fetch_version(remote, version, tmp_path / "first", downloads=tmp_path / "downloads")
    kept = [path for path in (tmp_path / "downloads").rglob("*.png") if path.is_file()]
    assert not list(tmp_path.glob(".first*"))
    client.put_object(Bucket=remote.bucket, Key=remote.key(file_md5(lost)), Body=lost.read_bytes())
    requests()
    fetch_version(remote, version, tmp_path / "second", downloads=tmp_path / "downloads")
    assert folder_version(tmp_path / "second") == version
    assert len(requests()) <= 4 * PAIRS - len(kept)
    assert not list((tmp_path / "downloads").iterdir())


def test_two_fetches_of_one_version_at_once_share_no_half_files(remote, version, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        targets = [tmp_path / "a", tmp_path / "b"]
        list(pool.map(lambda target: fetch_version(remote, version, target, downloads=tmp_path / "d"), targets))
    assert [folder_version(target) for target in targets] == [version, version]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../up.png", "a/../../up.png", "a//b", "./a", "a\nb", "a\\b", "", "a/"]
)
def test_a_path_that_would_leave_the_folder_is_refused(client, remote, tmp_path, path: str):
    listing = json.dumps([{"md5": md5(b"x"), "relpath": path}]).encode()
    client.put_object(Bucket=remote.bucket, Key=remote.key(md5(b"x")), Body=b"x")
    client.put_object(Bucket=remote.bucket, Key=remote.key(md5(listing) + ".dir"), Body=listing)
    with pytest.raises(InputError, match="lists the unsafe path") as told:
        fetch_version(remote, md5(listing) + ".dir", tmp_path / "in" / "target")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "in" / "target").exists() and not (tmp_path / "up.png").exists()


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([{"md5": "../../x", "relpath": "a"}], "no listing as DVC writes it"),
        ([{"relpath": "a"}], "no listing as DVC writes it"),
        ([{"md5": "0" * 32, "relpath": "\ud800"}], "no listing as DVC writes it"),
        ({"a": 1}, "no listing as DVC writes it"),
        ([{"md5": "0" * 32, "relpath": "a"}, {"md5": "1" * 32, "relpath": "a"}], "lists 'a' twice"),
        ([{"md5": "0" * 32, "relpath": "a"}, {"md5": "1" * 32, "relpath": "a/b"}], "'a' as a file and as a folder"),
    ],
)
def test_a_listing_that_makes_no_folder_is_refused(tmp_path, entries, complaint: str):
    (tmp_path / "listing").write_text(json.dumps(entries))
    with pytest.raises(InputError, match=complaint):
        read_listing(tmp_path / "listing", "v")


@given(path=st.text(st.sampled_from("./\\ab\0\n"), min_size=1, max_size=8))
def test_whatever_is_accepted_lies_in_the_folder(tmp_path_factory, path: str):
    listing = tmp_path_factory.getbasetemp() / "listing.json"
    listing.write_text(json.dumps([{"md5": "0" * 32, "relpath": path}]))
    try:
        (accepted,) = read_listing(listing, "v")
    except InputError:
        return
    folder = Path("/some/folder")
    assert Path(os.path.normpath(folder / accepted)) == folder / accepted != folder


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3://bu cket/x", "https://bucket/x", "s3://a?b/c"])
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(InputError, match=r"is no S3 address; give s3://bucket/prefix"):
        parse_remote(url)


def test_ingest_brings_the_collection_of_that_version_in(remote, version, tree, tmp_path, requests):
    facts = ingest(str(remote), version, PHANTOM, tmp_path / "dataset")
    assert (facts["source"], facts["version"], facts["pairs"]) == (str(remote), version, PAIRS)
    assert len(requests()) == 2 * PAIRS + 1
    local = ingest(str(tree), version, PHANTOM, tmp_path / "local")
    assert facts == local | {"source": str(remote)}
    assert (tmp_path / "dataset/manifest.csv").read_bytes() == (tmp_path / "local/manifest.csv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"original", "dataset", "local"}


def test_hidden_files_of_a_version_are_none_of_the_data(client, remote, tree, tmp_path):
    hidden = tmp_path / "hidden"
    hidden.write_text("a file manager's")
    version = publish(client, remote, [*files_of(tree), ("CT-MRI/CT/.DS_Store", hidden)])
    assert ingest(str(remote), version, PHANTOM, tmp_path / "dataset")["pairs"] == PAIRS


def test_ingest_from_s3_needs_a_version_and_a_run_is_told_before_it_starts(tmp_path):
    with pytest.raises(InputError, match=r"s3://atlas holds many versions; name one"):
        ingest("s3://atlas", "", PHANTOM, tmp_path / "dataset")
    with pytest.raises(InputError, match=r"s3://atlas holds many versions; name one"):
        prepare("quick", {"data": "s3://atlas"})
    parameters = prepare("quick", {"data": "s3://atlas/dvc", "data_version": "0" * 32 + ".dir"})
    assert parameters.data == "s3://atlas/dvc"


FETCH = (
    "import sys; from pathlib import Path; from components.ingest.remote import fetch_version, parse_remote\n"
    "fetch_version(parse_remote(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))\n"
    "print({'dvc', 'git', 'pygit2', 'torch', 's3fs'} & set(sys.modules))"
)


def fetching(remote, version: str, target: Path) -> subprocess.Popen[str]:
    """A fetch in a process of its own, with no program on its path."""
    environment = os.environ | {"PATH": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FETCH, str(remote), version, str(target)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_fetch_needs_neither_dvc_nor_git(remote, version, tmp_path):
    output, _ = fetching(remote, version, tmp_path / "target").communicate()
    assert output.splitlines()[-1] == "set()"


def test_a_killed_fetch_leaves_no_dataset_and_is_gone_on_with(client, remote, tmp_path, requests):
    (tmp_path / "many").mkdir()
    for number in range(200):
        (tmp_path / "many" / f"{number}.png").write_text(str(number))
    version = publish(client, remote, files_of(tmp_path / "many"))
    process = fetching(remote, version, tmp_path / "target")
    done = 0
    while done < 20:
        step, done, _, _ = parse(process.stdout.readline())
        assert step == "ingest"
    process.kill()
    process.communicate()
    assert not (tmp_path / "target").exists()
    requests()
    fetch_version(remote, version, tmp_path / "target")
    assert folder_version(tmp_path / "target") == version
    assert len(requests()) < 200
