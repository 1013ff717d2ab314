"""MLflow as a team runs it, on loopback: a server with users and passwords, PostgreSQL behind it, files on S3."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from threading import Event

import psycopg2
import requests

ADMINISTRATOR, PASSWORD = "keeper", "correct-horse-battery"
AUTHENTICATION = """[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {user}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


def postgresql() -> Path | None:
    """The folder of PostgreSQL's programs, None without one."""
    return max((found.parent for found in Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)


class Database:
    """A PostgreSQL server of its own, which root starts as the user `postgres`, as it will not run as root."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.password, self.port = secrets.token_hex(8), free_port()
        secret = self.folder / "password"
        secret.write_text(self.password)
        if os.getuid() == 0:
            for path in (self.folder, secret):
                shutil.chown(path, self.user)
        data = self.folder / "data"
        self._run("initdb", "--auth=scram-sha-256", f"--pwfile={secret}", "--username=atlas", "--no-sync", str(data))
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "start", "--wait", f"--pgdata={data}", f"--log={self.folder}/log", f"--options={options}")

    def create(self, name: str) -> str:
        """A new database; its URI."""
        address = {"host": "127.0.0.1", "port": self.port, "user": "atlas", "password": self.password}
        connection = psycopg2.connect(dbname="postgres", **address)
        connection.autocommit = True
        connection.cursor().execute(f'CREATE DATABASE "{name}"')
        connection.close()
        return f"postgresql+psycopg2://atlas:{self.password}@127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        """End it and remove its files."""
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate", f"--pgdata={self.folder}/data")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        programs = postgresql()
        assert programs is not None
        command, user = [str(programs / program), *arguments], self.user if os.getuid() == 0 else None
        with (self.folder / "log.start").open("ab") as log:
            subprocess.run(command, user=user, cwd=self.folder, stdout=log, stderr=log, check=True)


class Server:
    """An `mlflow server` whose administrator is `keeper`; `storage` is the environment that it reaches its files by."""

    def __init__(self, folder: Path, database: Database, destination: str, storage: dict[str, str]) -> None:
        authentication = folder / "authentication.ini"
        users = database.create("users")
        authentication.write_text(AUTHENTICATION.format(database=users, user=ADMINISTRATOR, password=PASSWORD))
        self.uri, self.log = f"http://127.0.0.1:{free_port()}", folder / "server.log"
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", self.uri.rpartition(":")[2]]
        command += ["--backend-store-uri", database.create("mlflow"), "--artifacts-destination", destination]
        environment = os.environ | storage
        environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(authentication),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._await()

    def close(self) -> None:
        """End it with all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def add_user(self, name: str, password: str) -> None:
        """A user who may read only, as the server's default permission says."""
        answer = requests.post(
            f"{self.uri}/api/2.0/mlflow/users/create",
            json={"username": name, "password": password},
            auth=(ADMINISTRATOR, PASSWORD),
            timeout=30,
        )
        assert answer.ok, answer.text

    def _await(self) -> None:
        never = Event()
        while self.process.poll() is None:
            with suppress(requests.RequestException):
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            never.wait(0.2)
        raise AssertionError(self.log.read_text())


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
