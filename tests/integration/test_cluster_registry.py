"""The registry of infra/kubernetes as its manifests say, on loopback: secrets made by secrets.sh, MLflow by the command
of its Deployment on PostgreSQL, and the very jobs that a cluster would run: users, backup, restore, champion.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event

import boto3
import psycopg2
import pytest
import requests
import yaml
from container import Cluster, can_confine, decoded
from mlflow_server import Database, free_port, postgresql

from components.register import catalogue
from components.tracking import connected
from tests.registered import make_folders, make_table, register

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "infra" / "kubernetes"))
from validate import HERE, build

pytestmark = pytest.mark.integration
NAME = "ct-mri-fusion"
OWNER, READER = "mlflow", "backup"
COPIES = "atlas-fusion-backup"
EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=9"


def on(database: Database, statement: str, dbname: str = "mlflow", user: str = "atlas", password: str = ""):
    """Run a statement; the rows that it gives."""
    password = password or database.password
    made = psycopg2.connect(host="127.0.0.1", port=database.port, dbname=dbname, user=user, password=password)
    with made, made.cursor() as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else []
    made.close()
    return rows


@pytest.fixture(scope="module")
def database():
    if not postgresql():
        pytest.skip("needs Debian's postgresql; .ci/servers.sh installs it")
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl; .ci/tools.sh installs it")
    server = Database()
    on(server, f"CREATE ROLE {OWNER} LOGIN PASSWORD 'p%w/d'; CREATE ROLE {READER} LOGIN PASSWORD 'r3ad'", "postgres")
    on(server, f"GRANT pg_read_all_data TO {READER}", "postgres")
    server.create("mlflow")
    on(server, f"ALTER DATABASE mlflow OWNER TO {OWNER}; ALTER SCHEMA public OWNER TO {OWNER}")
    yield server
    server.close()


@pytest.fixture(scope="module")
def cluster(database, tmp_path_factory):
    """The production overlay; its Secrets are those that secrets.sh makes for this database."""
    outside = {"PGHOST": "127.0.0.1", "PGPORT": str(database.port), "PGUSER": OWNER, "PGPASSWORD": "p%w/d"}
    outside |= {"BACKUP_PGUSER": READER, "BACKUP_PGPASSWORD": "r3ad"}
    outside |= dict.fromkeys(("MLFLOW_S3_KEY", "MLFLOW_S3_SECRET", "STEPS_S3_KEY", "STEPS_S3_SECRET"), "x")
    outside |= {"BACKUP_S3_KEY": "AKIDBACKUP", "BACKUP_S3_SECRET": "hush-hush"}
    command = [HERE / "secrets.sh", "production"]
    made = subprocess.run(command, env=os.environ | outside, capture_output=True, text=True, check=True).stdout
    named = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): each for each in yaml.safe_load_all(made) if each
    }
    secrets = {place: decoded(each) for place, each in named.items()}
    return Cluster(build(HERE / "overlays" / "production"), secrets, tmp_path_factory.mktemp("cluster"))


class Server:
    """MLflow by the command of its Deployment, started and ended as the tests ask."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.port, self.process = cluster, free_port(), None
        self.uri, self.log = f"http://localhost:{self.port}", cluster.folder / "mlflow.log"

    def up(self) -> str:
        if self.process is None:
            command, environment = self._command()
            with self.log.open("a") as out:
                self.process = subprocess.Popen(
                    command, env=environment, stdout=out, stderr=out, cwd=self.cluster.folder, start_new_session=True
                )
            self._await()
        return self.uri

    def down(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _command(self) -> tuple[list[str], dict[str, str]]:
        artifacts = self.cluster.folder / "artifacts"  # in the place of S3
        artifacts.mkdir(exist_ok=True)
        instead = {"MLFLOW_ARTIFACTS_DESTINATION": str(artifacts)}
        command, environment = self.cluster.command("Deployment", "mlflow", (artifacts,), **instead)
        return [
            {"0.0.0.0": "127.0.0.1", "5000": str(self.port), "2": "1"}.get(word, word) for word in command
        ], environment

    def _await(self) -> None:
        never = Event()
        while self.process.poll() is None:
            with suppress(requests.RequestException):
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            never.wait(0.2)
        raise AssertionError(self.log.read_text())


@pytest.fixture(scope="module")
def server(cluster):
    made = Server(cluster)
    yield made
    made.down()


def run(cluster: Cluster, kind: str, name: str, which: str = "", **instead: str) -> subprocess.CompletedProcess:
    command, environment = cluster.command(kind, name, which=which, **instead)
    environment["PATH"] = f"{postgresql()}{os.pathsep}{environment['PATH']}"
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def backup(cluster: Cluster, **instead: str) -> subprocess.CompletedProcess:
    return run(cluster, "CronJob", "mlflow-backup", "backup", **instead)


def restore(cluster: Cluster, **instead: str) -> subprocess.CompletedProcess:
    return run(cluster, "CronJob", "mlflow-restore", "restore", **instead)


def backups(cluster: Cluster) -> Path:
    return cluster.folder / "claims" / "mlflow-backup"


def registry(uri: str) -> dict[str, tuple[str, ...]]:
    """The aliases of every version, as a step's user sees them."""
    with connected(uri) as client:
        (model,) = catalogue.models(client)
        return {version.number: version.aliases for version in catalogue.versions(client, model)}


@pytest.fixture(scope="module")
def filled(cluster, server, tmp_path_factory):
    """What the registry holds once the steps' user has registered a champion and a challenger, and it was backed up."""
    folder, uri = tmp_path_factory.mktemp("models"), server.up()
    made = run(cluster, "Job", "mlflow-users", MLFLOW_TRACKING_URI=uri)
    assert made.returncode == 0, made.stderr
    with pytest.MonkeyPatch.context() as patch:
        be_a_step(cluster, patch)
        made = register(make_folders(folder, table=make_table(0.5)), uri, NAME)
        with connected(uri) as client:  # a second registration would be as many requests again
            client.create_model_version(NAME, f"runs:/{made.run_id}/model", made.run_id)
            client.set_registered_model_alias(NAME, "challenger", "2")
        before = registry(uri)
    done = backup(cluster)
    assert done.returncode == 0, done.stderr
    assert before == {"1": ("champion",), "2": ("challenger",)}
    return before


@pytest.fixture
def up(server, filled):
    """The address of the server, which runs."""
    return server.up()


@pytest.fixture
def down(server, filled):
    """The server does not run."""
    server.down()


@pytest.fixture
def steps(cluster, monkeypatch):
    """The environment of a step."""
    be_a_step(cluster, monkeypatch)


def be_a_step(cluster: Cluster, patch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        patch.setenv(name, cluster.secrets["atlas-fusion", "atlas-fusion"][name])


def reader(cluster: Cluster) -> tuple[str, str]:
    known = cluster.secret("mlflow-reader")
    return known["MLFLOW_TRACKING_USERNAME"], known["MLFLOW_TRACKING_PASSWORD"]


def test_only_users_get_in_and_only_by_a_known_name(cluster, up, filled, steps):
    experiments, reads = f"{up}{EXPERIMENTS}", reader(cluster)
    assert requests.get(experiments, timeout=30).status_code == 401
    assert requests.get(experiments, auth=reads, timeout=30).status_code == 200
    harm = {"name": NAME, "alias": "champion"}
    taken = requests.delete(f"{up}/api/2.0/mlflow/registered-models/alias", json=harm, auth=reads, timeout=30)
    assert taken.status_code == 403
    for host, status in (
        ("mlflow:5000", 200),
        ("mlflow.atlas-fusion-registry.svc:5000", 200),
        ("evil.example.org", 403),
    ):
        assert requests.get(experiments, auth=reads, headers={"Host": host}, timeout=30).status_code == status, host
    assert requests.get(f"{up}/health", headers={"Host": "10.1.2.3:5000"}, timeout=30).status_code == 200
    assert registry(up) == filled


def test_a_new_password_in_the_secret_is_the_password_once_the_job_has_run(cluster, up):
    known, old = cluster.secret("mlflow-reader"), reader(cluster)
    known["MLFLOW_TRACKING_PASSWORD"] = "another-long-password"
    assert run(cluster, "Job", "mlflow-users", MLFLOW_TRACKING_URI=up).returncode == 0
    asked = [requests.get(f"{up}{EXPERIMENTS}", auth=who, timeout=30).status_code for who in (old, reader(cluster))]
    assert asked == [401, 200]


def test_here_too_a_container_can_write_only_where_its_manifest_lets_it(cluster):
    if not can_confine():
        pytest.skip("needs root, unshare and setpriv")
    command, environment = cluster.command("CronJob", "mlflow-restore", which="restore")
    places = [str(backups(cluster)), environment["TMPDIR"], str(cluster.folder), "/root"]
    attempt = 'for place; do touch "$place/written" 2>/dev/null && echo "$place"; done; exit 0'
    command = [*command[: command.index("--") + 1], "bash", "-c", attempt, "try", *places]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [environment["TMPDIR"]], done.stderr


def test_the_tables_are_in_postgresql_and_the_backup_user_may_only_read_them(database, filled):
    assert on(database, "SELECT count(*) FROM model_versions", user=READER, password="r3ad") == [(2,)]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        on(database, "DELETE FROM model_versions", user=READER, password="r3ad")


def test_the_age_of_the_champion_is_told(cluster, up):
    def check(**instead: str) -> subprocess.CompletedProcess:
        return run(cluster, "CronJob", "champion-check", **({"MLFLOW_TRACKING_URI": up} | instead))

    young, old = check(), check(DAYS="0")
    assert young.returncode == 0 and "champion is version 1" in young.stdout, young.stderr
    assert old.returncode == 1 and "nothing new is registered" in old.stderr
    away = f"http://127.0.0.1:{free_port()}"
    for done in (check(MODEL_NAME="unknown"), check(MLFLOW_TRACKING_URI=away)):
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_restore_replaces_only_when_told_and_never_under_a_running_server(database, server, cluster, up, steps):
    done = restore(cluster, REPLACE="yes")
    assert done.returncode == 2 and "stop MLflow first" in done.stderr
    with connected(up) as client:
        client.set_registered_model_tag(NAME, "after", "the backup")
    server.down()
    done = restore(cluster)
    assert done.returncode == 2 and "REPLACE=yes replaces them" in done.stderr
    tags = "SELECT count(*) FROM registered_model_tags WHERE key = 'after'"
    assert on(database, tags) == [(1,)]
    assert restore(cluster, REPLACE="yes").returncode == 0
    assert on(database, tags) == [(0,)]


@pytest.mark.parametrize("harm", ["truncated", "altered", "without its checksum", "another's checksum"])
def test_a_damaged_backup_is_refused_and_the_database_stays(database, cluster, down, harm):
    (good,) = backups(cluster).glob("*.dump")
    name = "mlflow-20200101T000000Z.dump"
    content, bad, checksum = good.read_bytes(), good.with_name(name), good.with_name(f"{name}.sha256")
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    bad.write_bytes({"truncated": content[:middle], "altered": changed}.get(harm, content))
    line = good.with_name(f"{good.name}.sha256").read_text()
    if harm != "without its checksum":
        checksum.write_text(line if harm != "another's checksum" else f"{'0' * 64}  {name}\n")
    try:
        done = restore(cluster, BACKUP=name, REPLACE="yes")
        assert done.returncode == 2 and done.stderr.startswith("refused: ") and done.stderr.count("\n") == 1
        assert on(database, "SELECT count(*) FROM model_versions") == [(2,)]
    finally:
        bad.unlink()
        checksum.unlink(missing_ok=True)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_dump_that_ends_early_despite_its_checksum_changes_nothing(database, cluster, down, part):
    (good,) = backups(cluster).glob("*.dump")
    bad = good.with_name("mlflow-20200101T000000Z.dump")
    bad.write_bytes(good.read_bytes()[: int(good.stat().st_size * part)])
    sums = subprocess.run(["sha256sum", bad.name], cwd=bad.parent, capture_output=True, text=True).stdout
    bad.with_name(f"{bad.name}.sha256").write_text(sums)
    try:
        done = restore(cluster, BACKUP=bad.name, REPLACE="yes")
        assert done.returncode != 0
        assert on(database, "SELECT count(*) FROM model_versions") == [(2,)]
    finally:
        for path in backups(cluster).glob(f"{bad.name}*"):
            path.unlink()


@pytest.mark.parametrize("name", ["../../etc/passwd", "mlflow-20200101T000000Z.dump", "--help"])
def test_a_backup_that_is_not_there_is_refused(cluster, down, name):
    done = restore(cluster, BACKUP=name, REPLACE="yes")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_oldest_go_and_what_is_no_backup_stays(cluster, filled):
    folder = backups(cluster)
    (good,) = folder.glob("*.dump")
    for day in (1, 2, 3):
        for suffix in ("", ".sha256"):
            folder.joinpath(f"mlflow-2020010{day}T000000Z.dump{suffix}").write_text("old")
    folder.joinpath("notes.txt").write_text("mine")
    folder.joinpath("mlflow-20200104T000000Z.dump.partial").write_text("cut off")
    done = backup(cluster, KEEP="3")
    assert done.returncode == 0, done.stderr
    left = sorted(path.name for path in folder.iterdir())
    assert "mlflow-20200103T000000Z.dump" in left and good.name in left and "notes.txt" in left
    assert len([name for name in left if name.endswith(".dump")]) == 3 and not [n for n in left if "partial" in n]
    assert all(f"{name}.sha256" in left for name in left if name.endswith(".dump"))
    for path in folder.iterdir():
        if path.name not in (good.name, f"{good.name}.sha256"):
            path.unlink()


def test_a_backup_that_fails_drops_none(database, cluster, filled):
    before = sorted(path.name for path in backups(cluster).iterdir())
    database.create("empty")
    for instead in ({"PGDATABASE": "empty"}, {"PGDATABASE": "nothing"}, {"PGPASSWORD": "wrong"}, {"KEEP": "0"}):
        done = backup(cluster, **({"KEEP": "1"} | instead))
        assert done.returncode != 0 and done.stderr
        assert sorted(path.name for path in backups(cluster).iterdir()) == before


def test_what_was_destroyed_is_there_again_after_a_restore(database, server, cluster, filled, steps, down):
    on(database, f"DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {OWNER}")
    done = restore(cluster)
    assert done.returncode == 0, done.stderr
    assert "2 model versions, 1 runs" in done.stdout
    assert registry(server.up()) == filled  # as the steps' user, whose password came back with the tables


@pytest.fixture
def elsewhere(s3_server, cluster):
    """An S3 server with the bucket of the copies; what the containers that copy are told instead of its address."""
    client = boto3.client(
        "s3", endpoint_url=s3_server, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    client.create_bucket(Bucket=COPIES)
    yield client, {"AWS_ENDPOINT_URL_S3": s3_server, "AWS_REGION": "us-east-1"}
    for each in client.list_objects_v2(Bucket=COPIES).get("Contents", []):
        client.delete_object(Bucket=COPIES, Key=each["Key"])
    client.delete_bucket(Bucket=COPIES)
    shutil.rmtree(cluster.folder / "fetched", ignore_errors=True)


def test_a_database_and_a_volume_that_are_lost_are_had_again_from_s3(
    database, server, cluster, elsewhere, down, steps, filled
):
    _, place = elsewhere
    done = run(cluster, "CronJob", "mlflow-backup", "copy", **place)
    assert done.returncode == 0, done.stderr
    (good,) = backups(cluster).glob("*.dump")
    aside = backups(cluster).rename(cluster.folder / "lost")
    try:
        on(database, f"DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {OWNER}")
        told = {"SOURCE": "s3", "BACKUP": "latest"}
        fetched = run(cluster, "CronJob", "mlflow-restore", "fetch", **place, **told)
        assert fetched.returncode == 0 and good.name in fetched.stdout, fetched.stderr
        done = restore(cluster, **told)
        assert done.returncode == 0 and "2 model versions, 1 runs" in done.stdout, done.stderr
    finally:
        shutil.rmtree(backups(cluster), ignore_errors=True)
        aside.rename(backups(cluster))
    assert registry(server.up()) == filled


def test_a_copy_that_was_altered_on_s3_is_not_restored(database, cluster, elsewhere, down):
    client, place = elsewhere
    assert run(cluster, "CronJob", "mlflow-backup", "copy", **place).returncode == 0
    (good,) = backups(cluster).glob("*.dump")
    client.put_object(Bucket=COPIES, Key=f"mlflow/{good.name}", Body=good.read_bytes()[:-1] + b"?")
    told = {"SOURCE": "s3", "BACKUP": good.name, "REPLACE": "yes"}
    assert run(cluster, "CronJob", "mlflow-restore", "fetch", **place, **told).returncode == 0
    done = restore(cluster, **told)
    assert done.returncode == 2 and "is damaged or was altered" in done.stderr
    assert on(database, "SELECT count(*) FROM model_versions") == [(2,)]


def test_a_copy_that_fails_is_told_and_the_backup_stays(cluster, elsewhere, filled):
    before = sorted(path.name for path in backups(cluster).iterdir())
    away = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{free_port()}", "AWS_MAX_ATTEMPTS": "1"}
    done = run(cluster, "CronJob", "mlflow-backup", "copy", **away)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "hush" not in done.stderr
    assert sorted(path.name for path in backups(cluster).iterdir()) == before
