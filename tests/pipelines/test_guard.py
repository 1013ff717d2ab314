"""The guard before the scoring server: bodies that are too large, too many or too slow, and errors in one line."""

import asyncio
import json

import pytest

from pipelines.guard import BODIES_AT_ONCE, Guard


def ask(guard, *chunks, headers=(), kind=b"application/json"):
    """The status and the body that the guard answers to a request whose body arrives in these chunks."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if messages and messages[-1]["body"] is not None:
        messages[-1]["more_body"] = False
    sent = []

    async def receive():
        if not messages or messages[0]["body"] is None:
            await asyncio.Event().wait()  # never comes
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    own = [(b"content-type", kind)] if kind else []
    asyncio.run(guard({"type": "http", "method": "POST", "headers": [*own, *headers]}, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], json.loads(sent[1]["body"])


def app(status, answer):
    async def run(scope, receive, send):
        body = (await receive())["body"]
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": content or json.dumps(body.decode()).encode()})

    return run


def test_a_body_in_pieces_arrives_whole():
    assert ask(Guard(app(200, b""), 10), b"in ", b"pieces") == (200, "in pieces")


@pytest.mark.parametrize(("chunks", "headers"), [((b"x" * 6, b"x" * 5), ()), ((), [(b"content-length", b"11")])])
def test_a_body_above_the_limit_is_refused(chunks, headers):
    guard = Guard(app(200, b""), 10)
    status, said = ask(guard, *chunks, headers=headers)
    assert (status, guard.held) == (413, 0) and "10 bytes" in said["message"]


def test_more_bodies_than_memory_is_kept_for_are_told_to_come_again():
    guard = Guard(app(200, b""), 10)
    guard.held = 10 * BODIES_AT_ONCE
    assert ask(guard, b"x")[0] == 503
    assert guard.held == 10 * BODIES_AT_ONCE
    guard.held = 0
    assert ask(guard, b"x")[0] == 200


def test_a_body_that_does_not_arrive_is_given_up():
    status, said = ask(Guard(app(200, b""), 10, patience=0), b"x", None)
    assert (status, said["error_code"]) == (408, "REQUEST_TIMEOUT")


def test_a_request_without_a_content_type_is_refused():
    assert ask(Guard(app(200, b""), 10), b"x", kind=None)[0] == 415


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"message": "Failed to predict data '{...}'. \nError: ct is 2x1"}, "ct is 2x1"),
        ({"message": "Failed to enforce schema of data 'x' with schema 'y'. Error: missing"}, "missing"),
        ({"message": "no JSON. Error: here\nInput: \n" + "x" * 10_000}, "no JSON. Error: here"),
        ({"detail": "Not Found"}, "Not Found"),
        (["a list"], '["a list"]'),
        (b"plain text", "plain text"),
        ({"message": "two\nlines", "stack_trace": "Traceback"}, "two\\nlines"),
    ],
)
def test_an_error_is_one_line_without_the_data(answer, message, capsys):
    status, said = ask(Guard(app(400, answer), 10), b"x")
    assert (status, said) == (400, {"error_code": "BAD_REQUEST", "message": message})
    assert capsys.readouterr().err == ""


def test_the_traceback_of_a_defect_goes_to_standard_error(capsys):
    answer = {"message": "Encountered an unexpected error while evaluating.", "stack_trace": "Traceback of it"}
    assert "Traceback" not in str(ask(Guard(app(400, answer), 10), b"x"))
    assert "Traceback of it" in capsys.readouterr().err
