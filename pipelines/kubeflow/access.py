"""Where Kubeflow Pipelines is, and who asks: from options, the environment and files; secrets are shown nowhere."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from model.errors import InputError

# Where Kubeflow mounts the token of a pod's ServiceAccount (its PodDefault "access-ml-pipeline").
MOUNTED_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"
PORT_FORWARD = "kubectl port-forward --namespace kubeflow svc/ml-pipeline-ui 8080:80"


@dataclass(frozen=True)
class Access:
    """One way in: an address without its last slash, and at most one of token, cookie and user."""

    host: str
    namespace: str = ""
    ca: str = ""
    timeout: float = 30.0
    ui: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    cookie: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def find(
        cls,
        host: str | None,
        namespace: str | None = None,
        ca: Path | None = None,
        timeout: float = 30.0,
        environment: Mapping[str, str] = os.environ,
    ) -> "Access":
        """The way in that the options and the environment describe; raises InputError for one that leads nowhere."""
        if not host:
            raise InputError(
                "no Kubeflow: give its address with --host or FUSION_KFP_HOST, such as http://localhost:8080 while "
                f"`{PORT_FORWARD}` runs"
            )
        if timeout <= 0:
            raise InputError(f"--timeout is {timeout:g} s; give more than 0")
        address = _address(host)
        return cls(
            host=address,
            namespace=namespace or "",
            ca=_certificates(ca),
            timeout=timeout,
            ui=_address(environment["FUSION_KFP_UI"]) if environment.get("FUSION_KFP_UI") else address,
            **_credentials(environment),
        )

    def current_token(self) -> str:
        """The bearer token now; a file is read anew each time, since Kubernetes renews what is in it."""
        if self.token_file:
            return _read_secret(self.token_file, "token")
        return self.token

    def secrets(self) -> list[str]:
        """What no output may show."""
        try:
            token = self.current_token()
        except InputError:
            token = ""
        cookies = [part.partition("=")[2] for part in self.cookie.split(";")]
        return [secret for secret in (token, self.cookie, self.password, *cookies) if len(secret) > 3]

    @property
    def way(self) -> str:
        """Which credentials are used, for messages."""
        if self.token_file:
            return f"the token in {self.token_file}"
        if self.token:
            return "the token in FUSION_KFP_TOKEN"
        if self.cookie:
            return "the cookie in FUSION_KFP_COOKIE"
        return f"the user {self.username}" if self.username else "no credentials"


def _address(host: str) -> str:
    """An address with a scheme and without a user, a query or the API's own path."""
    text = host.strip() if "://" in host else f"https://{host.strip()}"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or any(sign.isspace() for sign in text):
        raise InputError(f"no address of Kubeflow Pipelines: {host!r}; give such as https://kubeflow.example.org")
    if "@" in parts.netloc:
        raise InputError(f"{host} holds a user; credentials belong in the environment (FUSION_KFP_USERNAME)")
    path = parts.path.rstrip("/").removesuffix("/apis/v2beta1").removesuffix("/#")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _certificates(ca: Path | None) -> str:
    if ca is None:
        return ""
    if not ca.is_file():
        raise InputError(f"no file of CA certificates {ca}; give a PEM file with --ca")
    return str(ca)


def _credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The one way to log in that the environment names."""
    ways: dict[str, dict[str, str]] = {}
    if token := environment.get("FUSION_KFP_TOKEN", "").strip():
        ways["FUSION_KFP_TOKEN"] = {"token": _header(token, "FUSION_KFP_TOKEN")}
    if file := environment.get("FUSION_KFP_TOKEN_FILE"):
        ways["FUSION_KFP_TOKEN_FILE"] = {"token_file": file}
    if cookie := environment.get("FUSION_KFP_COOKIE", "").strip():
        ways["FUSION_KFP_COOKIE"] = {"cookie": _header(cookie, "FUSION_KFP_COOKIE")}
    if user := environment.get("FUSION_KFP_USERNAME"):
        ways["FUSION_KFP_USERNAME"] = {"username": user, "password": _password(environment)}
    if len(ways) > 1:
        raise InputError(f"several ways to log in are set, {' and '.join(ways)}; keep one")
    mounted = environment.get("KF_PIPELINES_SA_TOKEN_PATH", MOUNTED_TOKEN)
    if not ways and Path(mounted).is_file():
        return {"token_file": mounted}
    found = next(iter(ways.values()), {})
    if found.get("token_file"):
        _read_secret(found["token_file"], "token")
    return found


def _password(environment: Mapping[str, str]) -> str:
    if file := environment.get("FUSION_KFP_PASSWORD_FILE"):
        return _read_secret(file, "password")
    if password := environment.get("FUSION_KFP_PASSWORD"):
        return password
    raise InputError("FUSION_KFP_USERNAME is set without FUSION_KFP_PASSWORD or FUSION_KFP_PASSWORD_FILE; set one")


def _read_secret(file: str, what: str) -> str:
    try:
        secret = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no text"
        raise InputError(f"cannot read the {what} of Kubeflow from {file}: {why}") from None
    if not secret:
        raise InputError(f"{file} is empty; it should hold the {what} of Kubeflow")
    return _header(secret, file) if what == "token" else secret


def _header(secret: str, where: str) -> str:
    """The secret, if a header can hold it; its value is in no message."""
    if not secret.isascii() or not secret.isprintable():
        raise InputError(f"what {where} holds cannot stand in an HTTP header; it has line breaks or other signs")
    return secret
