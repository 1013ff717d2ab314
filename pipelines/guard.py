"""What stands between the network and MLflow's scoring server: limits on bodies, and errors in one line."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from model.errors import one_line

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

BODIES_AT_ONCE = 4
PATIENCE = 60.0
_LONGEST = 500
_QUOTING = ("Failed to predict data", "Failed to enforce schema")


class Refused(Exception):
    """A request that is answered without the app: the status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Guard:
    """An ASGI app around another: no body above `most_bytes`, not more than four such in memory, no slow ones.

    A body is refused by its Content-Length before any of it is read, and while it is read. Every error that the app
    answers becomes JSON with `error_code` and a `message` of one line; the traceback of a defect goes to
    standard error.
    """

    def __init__(self, app: App, most_bytes: int, patience: float = PATIENCE) -> None:
        self.app, self.most_bytes, self.patience = app, most_bytes, patience
        self.held = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one connection's request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        try:
            try:
                await self._read(scope, receive, body)
            except Refused as refused:
                await _answer(send, refused.status, _error(refused.status, str(refused)))
                return
            await self.app(scope, _replayed(bytes(body), receive), _in_one_line(send))
        finally:
            self.held -= len(body)

    async def _read(self, scope: MutableMapping[str, Any], receive: Receive, body: bytearray) -> None:
        headers = dict(scope["headers"])
        self._check(int(headers.get(b"content-length", b"0")), 0)
        if scope["method"] == "POST" and b"content-type" not in headers:
            raise Refused(415, "the request says no Content-Type; give application/json")
        try:
            async with asyncio.timeout(self.patience):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the connection ended within the body")
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    self._check(len(body) + len(chunk), len(body))
                    body += chunk
                    self.held += len(chunk)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self.patience:g} seconds") from None

    def _check(self, length: int, counted: int) -> None:
        if length > self.most_bytes:
            raise Refused(
                413, f"the body is larger than the {self.most_bytes} bytes that are taken; send fewer images at once"
            )
        if self.held - counted + length > BODIES_AT_ONCE * self.most_bytes:
            raise Refused(503, "too many requests are under way; try again")


def _replayed(body: bytes, receive: Receive) -> Receive:
    left = [body]

    async def replay() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replay


def _in_one_line(send: Send) -> Send:
    """Hold an error's answer back until it is whole, and send it as one line."""
    start: list[Message] = []
    body = bytearray()

    async def watch(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            start.append(message)
        elif not start:
            await send(message)
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                await _answer(send, start[0]["status"], _rewritten(start[0]["status"], bytes(body)))

    return watch


def _rewritten(status: int, body: bytes) -> dict[str, str]:
    text = body.decode(errors="replace")
    try:
        said = json.loads(text)
    except ValueError:
        return _error(status, text)
    if not isinstance(said, dict):
        return _error(status, text)
    message = str(said.get("message") or said.get("detail") or text)
    if message.startswith("Encountered an unexpected error"):
        print(said.get("stack_trace"), file=sys.stderr, flush=True)
    return _error(status, message, said.get("error_code", ""))


def _error(status: int, message: str, code: str = "") -> dict[str, str]:
    # MLflow quotes the whole input before the reason, or after it.
    message = message.partition("\nInput:")[0].partition(" IMPORTANT:")[0]
    if message.startswith(_QUOTING):
        message = message.rpartition("Error: ")[2]
    return {"error_code": code or HTTPStatus(status).name, "message": one_line(message.strip())[:_LONGEST]}


async def _answer(send: Send, status: int, error: dict[str, str]) -> None:
    body = json.dumps(error).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"retry-after", b"1")] if status == 503 else []
    # What is left of a refused body is not read, so nothing can follow it.
    headers += [(b"connection", b"close")] if status in (408, 413, 503) else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
