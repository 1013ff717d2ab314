"""What a failed request to Kubeflow means, told in one line without any secret."""

import json
import re
from dataclasses import dataclass
from typing import Any

from model.errors import InputError
from pipelines.kubeflow.access import PORT_FORWARD, Access

_LOGIN = re.compile(r"dex|oauth2|/auth|login|signin|sign_in|sso", re.IGNORECASE)
_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_READY = (429, 502, 503, 504)
_LONGEST = 400  # signs of the server's own words


class Refused(InputError):
    """A request that came to nothing; `passing` says whether it may work later, `status` is HTTP's or 0."""

    def __init__(self, line: str, status: int = 0, passing: bool = False) -> None:
        super().__init__(line)
        self.status, self.passing = status, passing


@dataclass
class Failure(Exception):
    """A request that failed: an answer with a status, or none, which `network` then names."""

    status: int = 0
    text: str = ""
    html: bool = False
    location: str = ""
    network: str = ""  # unreachable, timeout, reset or tls

    @property
    def unsent(self) -> bool:
        """Whether the server cannot have seen it."""
        return self.network in ("unreachable", "tls")

    @property
    def passing(self) -> bool:
        """Whether it is worth another attempt."""
        return self.status in _NOT_READY or self.network == "reset"

    @property
    def unknown(self) -> bool:
        """Whether it may have been done all the same."""
        return self.network in ("reset", "timeout") or self.status in (502, 504)

    @property
    def needs_login(self) -> bool:
        """Whether a session is missing or has ended."""
        # A page with 403 is oauth2-proxy's button to log in; Kubeflow and Istio refuse in plain words.
        asked = self.status in _REDIRECTS and _LOGIN.search(self.location)
        return self.status == 401 or (self.status == 403 and self.html) or bool(asked)

    @property
    def from_api(self) -> bool:
        """Whether Kubeflow itself gave the answer, rather than something before it."""
        return not self.html

    def told(self, access: Access, sent: bool) -> Refused:
        """The line for the user; `sent` adds that nobody knows whether it was done."""
        line = self._line(access)
        if sent and self.unknown:
            line += "; it may have been done all the same: look before you try again"
        passing = self.passing or self.network in ("timeout", "unreachable")
        return Refused(_without_secrets(line, access), self.status, passing)

    def _line(self, access: Access) -> str:
        host = access.host
        if self.network:
            return self._network_line(access)
        if self.needs_login:
            how = "set FUSION_KFP_USERNAME and FUSION_KFP_PASSWORD, FUSION_KFP_TOKEN or FUSION_KFP_COOKIE"
            if access.way == "no credentials":
                return f"{host} asks for a login; {how}"
            return f"{host} does not accept {access.way}: it is wrong or has expired; renew it{self._said()}"
        if self.status in _REDIRECTS:
            return f"{host} sends elsewhere, to {self.location.partition('?')[0]}; give that address"
        if self.status == 403:
            where = f"in namespace {access.namespace}" if access.namespace else "there"
            return f"not allowed {where} with {access.way}{self._said()}; check --namespace, or ask for access to it"
        if self.status == 404:
            what = "is no Kubeflow Pipelines API" if self.html else "has no such thing"
            return f"{host} {what} (HTTP 404){self._said()}; check the address"
        if self.html or not self.status or 200 <= self.status < 300:
            return (
                f"{host} answers with {'a web page' if self.html else 'something'} that is not the Kubeflow Pipelines "
                "API; check the address: within Kubeflow it ends in /pipeline"
            )
        if self.status == 409:
            return f"{host} has it already (HTTP 409){self._said()}"
        if self.status in _NOT_READY:
            return f"{host} is not ready (HTTP {self.status}){self._said()}; try again later"
        if self.status >= 500:
            return f"Kubeflow failed (HTTP {self.status}){self._said()}; the log of its pod ml-pipeline knows more"
        return f"Kubeflow refuses it (HTTP {self.status}){self._said()}"

    def _said(self) -> str:
        words = "" if self.html else " ".join(self.text.split())
        return f": {words[:_LONGEST]}{'...' if len(words) > _LONGEST else ''}" if words else ""

    def _network_line(self, access: Access) -> str:
        host = access.host
        if self.network == "timeout":
            return f"{host} did not answer within {access.timeout:g} s; try again, or give more with --timeout"
        if self.network == "reset":
            return f"{host} closed the connection; try again later"
        if self.network == "tls" and "WRONG_VERSION_NUMBER" in self.text:
            return f"{host} does not speak TLS; is it http://?"
        if self.network == "tls":
            return f"the certificate of {host} is not trusted ({self.text}); give the CA that signed it with --ca FILE"
        forward = f"; does `{PORT_FORWARD}` run?" if re.search(r"//(localhost|127\.|\[::1)", host) else ""
        return f"cannot reach {host}: {self.text}; check the address{forward}"


def failure_of(error: Exception) -> Failure | None:
    """What kfp_server_api's error says; None for one that is none of the network's or the server's."""
    import kfp_server_api as kfp
    import urllib3

    # kfp_server_api fails over the empty body of an error that never was an answer.
    if isinstance(error, AttributeError) and isinstance(error.__context__, kfp.ApiException):
        error = error.__context__
    if isinstance(error, kfp.ApiException):
        return _of_answer(error) if error.status else _of_tls(str(error.reason))
    if isinstance(error, urllib3.exceptions.SSLError):
        return _of_tls(str(error))
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return Failure(network="timeout")
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.NewConnectionError):
        return Failure(network="unreachable", text=_why(error))
    if isinstance(error, urllib3.exceptions.ProxyError):
        return Failure(network="unreachable", text="the proxy of HTTP_PROXY or HTTPS_PROXY does not let it through")
    if isinstance(error, urllib3.exceptions.ProtocolError | ConnectionError):
        return Failure(network="reset")
    if isinstance(error, urllib3.exceptions.HTTPError):
        return Failure(network="unreachable", text=type(error).__name__)
    return None


def refused(error: Exception, access: Access) -> Refused:
    """What an error of requests says, as for one of ours."""
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        failure = _of_tls(str(error))
    elif isinstance(error, requests.exceptions.Timeout):
        failure = Failure(network="timeout")
    else:
        failure = Failure(network="unreachable", text="the login page does not answer")
    return failure.told(access, sent=False)


def _of_answer(error: Any) -> Failure:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    body = error.body if isinstance(error.body, str) else ""
    html = "html" in headers.get("content-type", "") or body.lstrip()[:1] == "<"
    return Failure(error.status, _message(body), html, headers.get("location", ""))


def _message(body: str) -> str:
    """The server's words: of gRPC's gateway, of the upload's, or plain."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body
    if not isinstance(answer, dict):
        return ""
    found = next((answer[key] for key in ("message", "error_message", "error") if answer.get(key)), "")
    return str(found)


def _of_tls(reason: str) -> Failure:
    if "WRONG_VERSION_NUMBER" in reason or "record layer" in reason:
        return Failure(network="tls", text="WRONG_VERSION_NUMBER")
    told = re.search(r"certificate verify failed: (.+?)\.? \(_ssl", reason)
    return Failure(network="tls", text=told[1].strip() if told else "the TLS handshake failed")


def _why(error: Exception) -> str:
    import urllib3

    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "no such host name"
    if not isinstance(error, urllib3.exceptions.NewConnectionError):
        return "no connection within the time limit"
    cause = error.__cause__ or error.__context__
    return (cause.strerror if isinstance(cause, OSError) else None) or "no connection"


def _without_secrets(line: str, access: Access) -> str:
    """The line without any secret that the server may have repeated."""
    for secret in sorted(access.secrets(), key=len, reverse=True):
        line = line.replace(secret, "***")
    return line
