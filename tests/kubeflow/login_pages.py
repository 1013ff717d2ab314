"""The pages before Kubeflow's API: oauth2-proxy and Dex, as a browser without a session goes through them."""

import uuid
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, quote

from wire import Refusal


class LoginPages(BaseHTTPRequestHandler):
    """What lets a user in; `self.api` has the users, their passwords and sessions."""

    # Who asks

    @property
    def user(self) -> str | None:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme == "Bearer" and token in self.api.tokens:
            return self.api.tokens[token]
        cookies = dict(
            part.strip().split("=", 1) for part in (self.headers.get("Cookie") or "").split(";") if "=" in part
        )
        return self.api.sessions.get(cookies.get("oauth2_proxy_kubeflow", ""))

    def _gate(self, path: str) -> Any:
        """What stands before the API: the login page, or nothing."""
        if self.api.login and path.startswith(("/dex/", "/oauth2/")):
            return self._dex(path)
        if not (self.api.users or self.api.login) or self.user:
            return None
        if not self.api.login or self.headers.get("Authorization"):
            raise Refusal(401, "Request header error: there is no user identity header.", 16)
        if self.api.login == "sign-in":
            self._send(403, "<html><form action='/oauth2/start'>Sign in</form></html>")
            return True
        begin = "/oauth2/start?rd=/" if self.api.login == "proxy" else "/dex/auth?client_id=kubeflow&state=abc"
        return self._go(begin)

    def _go(self, where: str, cookie: str = "") -> bool:
        self._send(303, "", {"Location": where} | ({"Set-Cookie": cookie} if cookie else {}))
        return True

    def _dex(self, path: str) -> Any:
        if path == "/oauth2/start":
            return self._go(
                "/dex/auth?client_id=kubeflow&state=abc", "_oauth2_proxy_csrf=secret-csrf; Path=/; HttpOnly"
            )
        if path == "/dex/auth":
            self._send(200, "<html><a href='/dex/auth/local'>Log in with Email</a></html>")
            return True
        if path == "/dex/auth/local":
            return self._go("/dex/auth/local/login?back=&state=xyz")
        if path == "/dex/auth/local/login" and self.command == "GET":
            self._send(
                200, '<html><form method="post" action="/dex/auth/local/login?back=&amp;state=xyz"></form></html>'
            )
            return True
        if path == "/dex/auth/local/login":
            return self._sent_form()
        if path == "/dex/approval":
            if self.command == "GET":
                self._send(200, "<html><form method='post'>Grant access</form></html>")
                return True
            assert parse_qs(self.body.decode()) == {"req": ["r1"], "approval": ["approve"]}
            return self._let_in(self.query["hmac"])
        if path == "/oauth2/callback":
            session = f"session-{uuid.uuid4().hex}"
            self.api.sessions[session] = self.query["code"]
            return self._go("/", f"oauth2_proxy_kubeflow={session}; Path=/; HttpOnly")
        raise Refusal(404, "no such page")

    def _sent_form(self) -> bool:
        assert self.query["state"] == "xyz"
        form = {name: values[0] for name, values in parse_qs(self.body.decode()).items()}
        if self.api.passwords.get(form["login"]) != form["password"]:
            self._send(200, "<html>Invalid Email Address and password. <form></form></html>")
            return True
        if self.api.approval:
            return self._go(f"/dex/approval?req=r1&hmac={quote(form['login'])}")
        return self._let_in(form["login"])

    def _let_in(self, user: str) -> bool:
        return self._go(f"/oauth2/callback?code={quote(user)}&state=abc")
