"""Log in to Kubeflow as its login page does: Dex's form, with or without oauth2-proxy before it, for a cookie."""

import re
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import requests

from model.errors import InputError

_LOGIN_PATH = re.compile(r"/auth/[^/]+/login$")
_FORM = re.compile(r"<form[^>]*>", re.IGNORECASE)
_ACTION = re.compile(r"""action=["']([^"']*)["']""", re.IGNORECASE)
_ENOUGH = 10  # steps; more are a circle


class _Session(requests.Session):
    """A session with one time limit and one trust, whatever the environment says but for proxies."""

    def __init__(self, ca: str, timeout: float) -> None:
        super().__init__()
        self._fixed = {"timeout": timeout, "verify": ca or True}
        # A .netrc is for other programs.
        self.auth = lambda request: request

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send one request of perhaps several, redirects among them."""
        return super().send(request, **{**options, **self._fixed})


def session_cookie(host: str, username: str, password: str, ca: str, timeout: float) -> str:
    """The Cookie header of a new session of that user; empty where the host asks for no login.

    Raises InputError when the credentials are refused, or where the page is none of Dex's. requests' own errors of the
    network pass through.
    """
    with _Session(ca, timeout) as session:
        page = session.get(f"{host}/")
        if page.ok and not page.history:
            return ""
        for _ in range(_ENOUGH):
            step = urlsplit(page.url).path
            # oauth2-proxy shows its own page, with one button, at whatever address was asked for.
            if step.endswith("/oauth2/sign_in") or (page.status_code in (401, 403) and "/oauth2/" not in step):
                back = {"rd": urlsplit(host).path or "/"}
                page = session.get(urljoin(page.url, f"/oauth2/start?{urlencode(back)}"))
            elif _LOGIN_PATH.search(step):
                return _log_in(session, page, username, password, host)
            elif step.endswith("/auth") and "client_id" in parse_qs(urlsplit(page.url).query):
                # Dex asks which of its connectors is meant; the form belongs to the local one.
                page = session.get(page.url.replace("/auth?", "/auth/local?", 1))
            else:
                break
        raise InputError(
            f"{host} leads to a login page that is not Dex's form ({_where(page)}); log in with a browser and give its "
            "cookie in FUSION_KFP_COOKIE, or a token in FUSION_KFP_TOKEN"
        )


def _log_in(session: requests.Session, page: requests.Response, username: str, password: str, host: str) -> str:
    """Send Dex's form, and pass its page that asks for approval if it comes."""
    form = _FORM.search(page.text)
    action = _ACTION.search(form[0]) if form else None
    address = urljoin(page.url, action[1].replace("&amp;", "&")) if action and action[1] else page.url
    if urlsplit(address).netloc != urlsplit(page.url).netloc:
        raise InputError(f"the login form of {_where(page)} sends the password to another host; it was not sent")
    if host.startswith("https:") and not address.startswith("https:"):
        raise InputError(f"the login form of {_where(page)} would send the password without TLS; it was not sent")
    sent = session.post(address, data={"login": username, "password": password})
    if _LOGIN_PATH.search(urlsplit(sent.url).path):
        raise InputError(f"Kubeflow's login refuses the user {username}; check FUSION_KFP_USERNAME and its password")
    if urlsplit(sent.url).path.endswith("/approval"):
        request = {"req": parse_qs(urlsplit(sent.url).query).get("req", [""])[0], "approval": "approve"}
        sent = session.post(sent.url, data=request)
    # Only what a browser would send to this host: Dex may have cookies of its own.
    cookie = session.prepare_request(requests.Request("GET", f"{host}/")).headers.get("Cookie")
    if sent.status_code >= 400 or not cookie:
        raise InputError(f"the login at {_where(page)} ended with HTTP {sent.status_code} and no session; try again")
    return str(cookie)


def _where(page: requests.Response) -> str:
    """The page without its query, which holds the state of the login."""
    parts = urlsplit(page.url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
