"""MLflow servers as a training may meet them: a real one, bad ones, and a proxy that drops answers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import requests


class Server:
    """A real `mlflow server` on sqlite, which can be killed and started again at the same address."""

    def __init__(self, root: Path) -> None:
        self.port, self.root = free_port(), root
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.root}/server.db"]
        command += ["--artifacts-destination", str(self.root / "files")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.root / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=60).ok
        except requests.RequestException:
            return False


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Ask until the answer is true."""
    never, end = Event(), time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, "it did not come to pass"
        never.wait(0.1)
    return answer


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def bad_server(kind: str, healthy: bool = False) -> Iterator[str]:
    """A server that answers every request with a status, or (`silent`) takes connections and never says a word."""
    if kind == "silent":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        return

    class Refusing(Quiet):
        def do_GET(self) -> None:
            self.send_response(200 if healthy and self.path == "/health" else int(kind))
            self.end_headers()

        do_POST = do_GET  # noqa: N815

    with serving(Refusing) as address:
        yield address


@contextmanager
def forgetful_proxy(uri: str) -> Iterator[tuple[str, set[str]]]:
    """A proxy that passes every request on, but drops the first answer to making a run and to a batch."""
    seen = SimpleNamespace(dropped=set())

    class Forgetful(Quiet):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {"Content-Type": self.headers.get("Content-Type", "")}
            answer = requests.request(self.command, uri + self.path, data=body, headers=headers, timeout=300)
            call = "/".join(self.path.split("?")[0].split("/")[-2:])
            if call in ("runs/create", "runs/log-batch") and call not in seen.dropped:
                seen.dropped.add(call)
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET  # noqa: N815

    with serving(Forgetful) as address:
        yield f"http://{address}", seen.dropped


@contextmanager
def listening() -> Iterator[tuple[str, list[Any]]]:
    """The address of a server that takes every POST, and the JSON that it was sent."""
    posts: list[Any] = []

    class Hook(Quiet):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    with serving(Hook) as address:
        yield f"http://{address}", posts
