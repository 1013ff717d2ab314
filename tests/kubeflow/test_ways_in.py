"""The ways in to Kubeflow, and every way in which they are shut: one line, exit code 2, and no secret in it."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kfp_server import API
from wire import Fault

ROOT = Path(__file__).parents[2]
TOKEN, PASSWORD = "eyJhbGciOi.tok3n-of-ana", "p@ss w0rd&x=1"
TEAM = {"users": {"ana@example.org": {"team"}}, "tokens": {TOKEN: "ana@example.org"}}
DEX = {"users": {"ana@example.org": {"team"}}, "passwords": {"ana@example.org": PASSWORD}}


def issue(name: str, issuer=None, **extensions) -> tuple:
    """A key and a certificate of it, signed by `issuer` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, above = issuer or (key, None)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        above.subject if above else subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - timedelta(days=1),
        now + timedelta(days=1),
    )
    builder = builder.add_extension(x509.BasicConstraints(above is None, None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(authority, critical=False)
    if above:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        builder = builder.add_extension(names, critical=False)
    else:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    return key, builder.sign(signer, hashes.SHA256())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> tuple[Path, Path]:
    """The CA's certificate, and a server's with its key."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = issue("hospital CA")
    key, certificate = issue("kubeflow", ca)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca[1].public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(certificate.public_bytes(pem) + private)
    return folder / "ca.pem", folder / "server.pem"


@pytest.fixture
def team(make_server, nowhere):
    """A cluster with users; the environment names it and the namespace, and no credentials."""
    server = make_server(**TEAM)
    nowhere.setenv("FUSION_KFP_HOST", server.url)
    nowhere.setenv("FUSION_KFP_NAMESPACE", "team")
    return server


def test_a_port_forward_needs_nothing(run_command, server):
    assert run_command("runs", "list", "--host", f"{server.url}/").returncode == 0
    assert "Authorization" not in server.headers[-1] and "Cookie" not in server.headers[-1]


def test_a_token_from_the_environment(run_command, team, nowhere):
    nowhere.setenv("FUSION_KFP_TOKEN", TOKEN)
    assert run_command("submit").returncode == 0
    assert {headers["authorization"] for headers in team.headers} == {f"Bearer {TOKEN}"}
    (pipeline,) = team.pipelines.values()
    (experiment,) = team.experiments.values()
    assert pipeline.namespace == experiment.namespace == "team"


@pytest.mark.parametrize("variable", ["FUSION_KFP_TOKEN_FILE", "KF_PIPELINES_SA_TOKEN_PATH"])
def test_the_token_of_a_service_account_is_read_anew_each_time(run_command, team, nowhere, tmp_path, variable: str):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    nowhere.setenv(variable, str(file))
    assert run_command("submit").returncode == 0
    (run,) = team.runs.values()

    def renew(run) -> None:
        team.tokens = {"renewed": "ana@example.org"}
        file.write_text("renewed")
        team.play(run.run_id, "SUCCEEDED")

    team.on_look = renew
    done = run_command("runs", "wait", run.run_id, "--poll", "0")
    assert done.returncode == 0, done.stderr


def test_a_cookie_of_the_browser(run_command, team, nowhere):
    team.sessions["abc123session"] = "ana@example.org"
    nowhere.setenv("FUSION_KFP_COOKIE", "oauth2_proxy_kubeflow=abc123session")
    assert run_command("runs", "list").returncode == 0


@pytest.mark.parametrize("approval", [False, True])
@pytest.mark.parametrize("login", ["dex", "proxy", "sign-in"])
def test_the_login_of_dex(run_command, make_server, nowhere, login: str, approval: bool):
    server = make_server(**DEX, login=login, approval=approval)
    for name, value in (("USERNAME", "ana@example.org"), ("PASSWORD", PASSWORD)):
        nowhere.setenv(f"FUSION_KFP_{name}", value)
    done = run_command("runs", "list", "--host", server.url, "--namespace", "team")
    assert done.returncode == 0, done.stderr
    assert sum(path.endswith("/login") for method, path in server.requests if method == "POST") == 1
    assert "dex" not in server.headers[-1]["Cookie"]


def test_a_session_that_ends_is_renewed_once(run_command, make_server, nowhere):
    server = make_server(**DEX, login="dex")
    for name, value in (("USERNAME", "ana@example.org"), ("PASSWORD", PASSWORD), ("NAMESPACE", "team")):
        nowhere.setenv(f"FUSION_KFP_{name}", value)
    nowhere.setenv("FUSION_KFP_HOST", server.url)
    assert run_command("submit").returncode == 0
    (run,) = server.runs.values()

    def end_session(run) -> None:
        server.sessions.clear()
        server.play(run.run_id, "SUCCEEDED")

    server.on_look = end_session
    assert run_command("runs", "wait", run.run_id, "--poll", "0").returncode == 0


def test_a_wrong_password_is_told_without_it(refused, make_server, nowhere):
    server = make_server(**DEX, login="proxy")
    nowhere.setenv("FUSION_KFP_USERNAME", "ana@example.org")
    nowhere.setenv("FUSION_KFP_PASSWORD", "wr0ng-secret")
    told = refused("runs", "list", "--host", server.url, "--namespace", "team")
    assert "Kubeflow's login refuses the user ana@example.org" in told and "wr0ng-secret" not in told


def test_a_login_page_without_credentials_names_the_ways_in(refused, make_server):
    told = refused("runs", "list", "--host", make_server(**DEX, login="dex").url, "--namespace", "team")
    assert "asks for a login; set FUSION_KFP_USERNAME and FUSION_KFP_PASSWORD, FUSION_KFP_TOKEN" in told


def test_a_login_that_is_not_dex_is_told(refused, make_server, nowhere):
    server = make_server(**DEX, login="dex")
    server.faults.append(Fault("GET", "/dex/auth(/local)?", 200, "<html>Log in with your badge</html>", times=99))
    nowhere.setenv("FUSION_KFP_USERNAME", "ana@example.org")
    nowhere.setenv("FUSION_KFP_PASSWORD", PASSWORD)
    assert "FUSION_KFP_COOKIE" in refused("runs", "list", "--host", server.url, "--namespace", "team")


def test_a_certificate_of_the_hospital_s_own_ca(run_command, refused, make_server, certificates):
    ca, certificate = certificates
    server = make_server(certificate=str(certificate))
    assert run_command("submit", "--host", server.url, "--ca", ca).returncode == 0
    told = refused("runs", "list", "--host", server.url)
    assert f"the certificate of {server.url} is not trusted" in told and "--ca FILE" in told
    assert "does not speak TLS; is it http://?" in refused(
        "runs", "list", "--host", make_server().url.replace("http:", "https:")
    )


def test_a_certificate_for_another_host_is_refused(refused, make_server, certificates):
    ca, certificate = certificates
    server = make_server(certificate=str(certificate))
    told = refused("runs", "list", "--host", server.url.replace("127.0.0.1", "localhost"), "--ca", ca)
    assert "is not trusted" in told


def test_the_login_of_dex_over_tls(run_command, make_server, nowhere, certificates):
    ca, certificate = certificates
    server = make_server(**DEX, login="dex", certificate=str(certificate))
    nowhere.setenv("FUSION_KFP_USERNAME", "ana@example.org")
    nowhere.setenv("FUSION_KFP_PASSWORD", PASSWORD)
    # What requests would prefer to the option.
    nowhere.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    done = run_command("runs", "list", "--host", server.url, "--namespace", "team", "--ca", ca)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("address", "why"), [("http://{plain}/dex/auth/local/login?state=xyz", "without TLS"), ("form", "to another host")]
)
def test_a_password_is_not_sent_where_it_does_not_belong(
    refused, make_server, nowhere, certificates, address: str, why: str
):
    ca, certificate = certificates
    server, plain = make_server(**DEX, login="dex", certificate=str(certificate)), make_server(**DEX, login="dex")
    elsewhere = f"<html><form action='{plain.url}/dex/auth/local/login'></form></html>"
    if address == "form":
        server.faults.append(Fault("GET", "/dex/auth/local/login", 200, elsewhere))
    else:
        host = plain.url.removeprefix("http://")
        server.faults.append(Fault("GET", "/", 303, "", headers={"Location": address.format(plain=host)}))
    nowhere.setenv("FUSION_KFP_USERNAME", "ana@example.org")
    nowhere.setenv("FUSION_KFP_PASSWORD", PASSWORD)
    assert why in refused("runs", "list", "--host", server.url, "--namespace", "team", "--ca", ca)
    assert not [path for each in (server, plain) for method, path in each.requests if method == "POST"]


def test_an_expired_token(refused, team, nowhere):
    nowhere.setenv("FUSION_KFP_TOKEN", "expired-t0ken")
    told = refused("runs", "list")
    assert "does not accept the token in FUSION_KFP_TOKEN: it is wrong or has expired; renew it" in told


def test_a_namespace_of_others(refused, team, nowhere):
    nowhere.setenv("FUSION_KFP_TOKEN", TOKEN)
    told = refused("runs", "list", "--namespace", "others")
    assert "not allowed in namespace others" in told and "User 'ana@example.org' is not authorized" in told


def test_a_namespace_is_asked_for_where_there_are_users(refused, team, nowhere):
    nowhere.setenv("FUSION_KFP_TOKEN", TOKEN)
    nowhere.delenv("FUSION_KFP_NAMESPACE")
    assert "name yours with --namespace" in refused("runs", "list")


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nobody_at_the_address(refused, closed_port):
    told = refused("runs", "list", "--host", f"http://127.0.0.1:{closed_port}")
    assert "Connection refused" in told
    assert "does `kubectl port-forward --namespace kubeflow svc/ml-pipeline-ui 8080:80` run?" in told


def test_no_such_host(refused):
    assert "no such host name" in refused("runs", "list", "--host", "https://kubeflow.invalid")


def test_no_host_at_all(refused):
    assert "give its address with --host or FUSION_KFP_HOST" in refused("runs", "list")


@pytest.mark.parametrize("host", ["ftp://x", "https://", "http://a b", "http://[", "http://host:port"])
def test_what_is_no_address(refused, host: str):
    assert "no address of Kubeflow Pipelines" in refused("runs", "list", "--host", host)


def test_a_password_in_the_address_is_refused_and_not_shown(refused):
    told = refused("runs", "list", "--host", "https://ana:s3cret@kubeflow.example.org")
    assert "credentials belong in the environment" in told and "s3cret" not in told


ANSWERS = {
    "a web page": (Fault("GET", ".*", 200, "<!doctype html><title>Intranet</title>", 9), "answers with a web page"),
    "not found": (Fault("GET", ".*", 404, "<html>nginx</html>", 9), "is no Kubeflow Pipelines API (HTTP 404)"),
    "no JSON": (Fault("GET", ".*", 200, "OK", 9), "answers with something that is not the Kubeflow Pipelines API"),
    "500": (
        Fault("GET", ".*", 500, {"message": "database is locked"}, 9),
        "(HTTP 500): database is locked; the log of",
    ),
    "503": (Fault("GET", ".*", 503, "no healthy upstream", 9), "is not ready (HTTP 503): no healthy upstream"),
    "reset": (Fault("GET", ".*", times=9), "closed the connection"),
    "moved": (Fault("GET", ".*", 301, "", 9, headers={"Location": "https://new.example.org/x?a=b"}), "to https://new."),
    "403 of Istio": (Fault("GET", ".*", 403, "RBAC: access denied", 9), "not allowed there with no credentials: RBAC"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_none(refused, server, answer: str):
    fault, said = ANSWERS[answer]
    server.faults.append(Fault(**vars(fault)))
    assert said in refused("runs", "list", "--host", server.url)


def test_kubeflow_pipelines_1_only(refused, make_server):
    told = refused("runs", "list", "--host", make_server(only_v1=True).url)
    assert "is Kubeflow Pipelines 1 only; atlas-fusion needs version 2" in told


def test_no_answer_in_time(refused, server):
    server.faults.append(Fault("GET", f"{API}/healthz", hang=True))
    assert "did not answer within 0.2 s" in refused("runs", "list", "--host", server.url, "--timeout", "0.2")


@pytest.mark.parametrize("fault", [{"status": 502}, {"status": 503}, {"status": 504}, {"status": 429}, {}])
def test_what_passes_is_tried_again_where_that_is_safe(fusion, server, fault: dict):
    server.faults.append(Fault("GET", f"{API}/runs", **fault, times=2))
    assert fusion("runs", "list").returncode == 0
    assert server.asked("GET", "/runs") == 3


@pytest.mark.parametrize("status", [400, 401, 403, 409, 500])
def test_what_does_not_pass_is_not_tried_again(fusion, server, status: int):
    server.faults.append(Fault("GET", f"{API}/runs", status, {"message": "no"}, times=9))
    assert fusion("runs", "list").returncode == 2
    assert server.asked("GET", "/runs") == 1


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 502}, {}])
def test_what_is_not_safe_is_not_tried_again(fusion, server, fault: dict):
    server.faults.append(Fault("POST", f"{API}/runs", **fault, times=9))
    done = fusion("submit")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert server.asked("POST", "/runs") == 1 and not server.runs


def test_no_secret_is_shown_that_the_server_repeats(run_command, team, nowhere):
    nowhere.setenv("FUSION_KFP_TOKEN", TOKEN)
    team.faults.append(Fault("GET", f"{API}/runs", 500, {"message": f"cannot verify Bearer {TOKEN}"}))
    done = run_command("runs", "list")
    assert done.returncode == 2 and "cannot verify Bearer ***" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_an_upload_that_is_not_allowed_says_whose_permission_it_needs(fusion, server):
    # Kubeflow answers 400 to this one, in a form of its own.
    denied = 'pipeline upload denied: permission to create pipelines.pipelines.kubeflow.org in namespace "team"'
    server.faults.append(Fault("POST", f"{API}/pipelines/upload_version", 400, {"error_message": denied}))
    done = fusion("submit")
    assert done.returncode == 2 and denied in done.stderr
    assert not server.runs


def test_two_ways_to_log_in_are_refused(refused, server, nowhere):
    nowhere.setenv("FUSION_KFP_TOKEN", TOKEN)
    nowhere.setenv("FUSION_KFP_COOKIE", "a=b")
    told = refused("runs", "list", "--host", server.url)
    assert "several ways to log in are set, FUSION_KFP_TOKEN and FUSION_KFP_COOKIE; keep one" in told


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TOKEN_FILE": "no-such-file"}, "cannot read the token of Kubeflow from no-such-file"),
        ({"TOKEN": "two\nlines"}, "what FUSION_KFP_TOKEN holds cannot stand in an HTTP header"),
        ({"USERNAME": "ana"}, "FUSION_KFP_USERNAME is set without FUSION_KFP_PASSWORD"),
        ({"CA": "no-such.pem"}, "no file of CA certificates no-such.pem"),
        ({"TIMEOUT": "0"}, "--timeout is 0 s"),
    ],
)
def test_settings_that_cannot_be_used(refused, server, nowhere, variables: dict[str, str], said: str):
    for name, value in variables.items():
        nowhere.setenv(f"FUSION_KFP_{name}", value)
    assert said in refused("runs", "list", "--host", server.url)


def test_the_proxy_of_the_environment_is_used(run_command, server, nowhere):
    nowhere.setenv("HTTP_PROXY", server.url)
    nowhere.setenv("FUSION_KFP_HOST", "http://kubeflow.example.org")
    server.faults.append(Fault("GET", "/.*", 407, "proxy here", times=9))
    assert "(HTTP 407): proxy here" in run_command("runs", "list").stderr


def test_as_a_process_of_its_own(make_server):
    server = make_server(**TEAM)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FUSION_KFP_HOST": server.url}
    environment |= {"FUSION_KFP_TOKEN": TOKEN, "FUSION_KFP_NAMESPACE": "team"}
    command = [sys.executable, "-m", "pipelines.cli", "runs", "list"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no runs; `fusion submit` starts one\n", "")
    del environment["FUSION_KFP_TOKEN"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
