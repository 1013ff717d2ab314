"""The webhook that hears of every new champion: JSON, as Slack takes it, to the address in ATLAS_FUSION_WEBHOOK."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests

from model.errors import one_line

WEBHOOK_VARIABLE = "ATLAS_FUSION_WEBHOOK"
ATTEMPTS = 3
SECONDS_TO_ANSWER = (5.0, 10.0)  # to connect, and then between bytes
SECONDS_BETWEEN = 1.0  # doubled after each attempt
_TRY_AGAIN = {408, 425, 429}


def announce(name: str, event: Mapping[str, Any], measures: Mapping[str, float], tracking_uri: str) -> bool:
    """Tell the webhook of a new champion; False where there is none, or it did not take it, which one line then says.

    `event` is that of the history. Nothing is raised: whoever promotes has promoted already.
    """
    url = os.environ.get(WEBHOOK_VARIABLE, "").strip()
    if not url:
        return False
    why = post(url, payload(name, event, measures, tracking_uri))
    if why:
        print(f"webhook not told ({why}); the champion stands; see {WEBHOOK_VARIABLE}", file=sys.stderr, flush=True)
    return not why


def payload(name: str, event: Mapping[str, Any], measures: Mapping[str, float], tracking_uri: str) -> dict[str, Any]:
    """What is posted: `text` for people, as Slack reads it, and the same as fields for programs."""
    version, over = event["version"], event["over"]
    place = f"in place of version {over}" if over else "the first one"
    verb = "is champion again" if event["action"] == "rolled back" else "is champion"
    text = for_slack(f"{name} version {version} {verb}, {place}: {event['reason']} (by {event['by']})")
    finite = {key: value for key, value in measures.items() if value - value == 0}
    return {
        "text": text,
        "event": event["action"].replace(" ", "_"),
        "model": name,
        "version": version,
        "previous_champion": over,
        "uri": f"models:/{name}/{version}",
        "reason": event["reason"],
        "by": event["by"],
        "at": event["at"],
        "measures": finite,
        "tracking_uri": tracking_uri,
    }


def for_slack(text: str) -> str:
    """The text in one line, with the three signs escaped that Slack reads as markup."""
    text = one_line(text)
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, escaped)
    return text


def post(url: str, content: Mapping[str, Any], pause: Callable[[float], None] = time.sleep) -> str:
    """POST JSON, a few times if the server is away or busy; "" or why it was not taken, never with the address."""
    if not url.lower().startswith(("http://", "https://")):
        return "its address is neither http nor https"
    why = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            pause(SECONDS_BETWEEN * 2 ** (attempt - 1))
        try:
            # A redirect would turn the POST into a GET, or take the message to someone else. An answer's body is not
            # read: one that never ends would hold up the step, or have the message sent again.
            with requests.post(
                url, json=content, timeout=SECONDS_TO_ANSWER, allow_redirects=False, stream=True
            ) as answer:
                status = answer.status_code
        except (requests.ConnectionError, requests.Timeout) as error:
            why = f"{type(error).__name__}, {attempt + 1} attempts"
            continue
        except (requests.RequestException, UnicodeError) as error:
            return type(error).__name__  # its words would hold the address
        if 200 <= status < 300:
            return ""
        why = f"HTTP {status}, {attempt + 1} attempts"
        if status < 500 and status not in _TRY_AGAIN:
            return f"HTTP {status}"
    return why
