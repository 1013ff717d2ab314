"""Run OpenStack Swift with its S3 API on this machine's loopback, from a folder of its own, until told to end.

/usr/bin/python3 swift_server.py FOLDER [PORT]     (needs Debian's python3-swift; everything it writes lies in FOLDER)

Prints the address once every server answers. Without a port it takes a free one, and ends when its standard input does;
with one it ends on SIGTERM, and what lies in FOLDER from an earlier time is there again. SWIFT_ACCESS_KEY names the one
user, such as atlas:reader, and SWIFT_SECRET_KEY the secret.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import pwd
import signal
import socket
import sys
import time
from pathlib import Path

KINDS = ("account", "container", "object")

SWIFT = """
[swift-hash]
swift_hash_path_suffix = loopback
[storage-policy:0]
name = one
default = yes
"""

DEFAULTS = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
log_level = WARNING
log_custom_handlers = swift_server.log_to_console
"""

STORAGE = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

# Nothing listens where memcached would: every lookup misses, and tempauth goes by the signature anyway.
PROXY = """
[pipeline:main]
pipeline = whole_heads catch_errors gatekeeper healthcheck cache s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:whole_heads]
paste.filter_factory = swift_server:whole_heads
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:slo]
use = egg:swift#slo
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
"""


def whole_heads(settings, **local):
    """Give every answer to HEAD a length: without one, eventlet ends it by a chunk that strict clients refuse."""

    def wrap(application):
        def answer(environment, start):
            def start_whole(status, headers, *more):
                if environment["REQUEST_METHOD"] == "HEAD" and "content-length" not in {n.lower() for n, _ in headers}:
                    headers = [*headers, ("Content-Length", "0")]
                return start(status, headers, *more)

            return application(environment, start_whole)

        return answer

    return wrap


def log_to_console(settings, name, to_console, route, form, logger, adapter):
    """Let a logger of Swift's write to standard error, not to a syslog that nobody runs."""
    logger.handlers = [logging.StreamHandler()]


def configure(folder, ports):
    """Write Swift's configuration and its rings, of one device and one replica."""
    (folder / "swift.conf").write_text(SWIFT)
    (folder / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    user = os.environ["SWIFT_ACCESS_KEY"].replace(":", "_")
    for kind in (*KINDS, "proxy"):
        text = DEFAULTS.format(port=ports[kind], user=pwd.getpwuid(os.getuid()).pw_name, folder=folder)
        secret = os.environ["SWIFT_SECRET_KEY"]
        text += PROXY.format(user=user, secret=secret) if kind == "proxy" else STORAGE.format(kind=kind)
        (folder / f"{kind}.conf").write_text(text)
    from swift.common.ring import RingBuilder

    for kind in KINDS:
        builder = RingBuilder(4, 1, 0)
        device = {"region": 1, "zone": 1, "ip": "127.0.0.1", "device": "disk", "weight": 1.0, "port": ports[kind]}
        builder.add_dev(device | {"replication_ip": "127.0.0.1", "replication_port": ports[kind], "meta": ""})
        builder.rebalance(seed="1")
        builder.get_ring().save(str(folder / f"{kind}.ring.gz"))


def settle_in(folder):
    """Let Swift read its configuration in `folder` instead of /etc/swift."""
    import swift.common.utils

    swift.common.utils.SWIFT_CONF_FILE = str(folder / "swift.conf")


def serve(kind, folder):
    """One of the servers, in a process of its own."""
    settle_in(folder)
    from swift.common.wsgi import run_wsgi

    run_wsgi(str(folder / f"{kind}.conf"), f"{kind}-server")


def wait_for(port, process):
    """Return once something listens on the port; a server that ended instead ends this program."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.is_alive():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        process.join(0.1)
    sys.exit(f"the {process.name} server of Swift does not answer on port {port}")


def free_ports():
    """A free port for each server."""
    sockets = {kind: socket.create_server(("127.0.0.1", 0)) for kind in (*KINDS, "proxy")}
    ports = {kind: held.getsockname()[1] for kind, held in sockets.items()}
    for held in sockets.values():
        held.close()
    return ports


def end(number, frame):
    """Leave the wait by way of what ends the servers."""
    sys.exit(0)


def main(folder, port=None):
    """Start the four servers, print the address, wait to be told to end, end them."""
    os.umask(0o077)
    ports = {kind: port + step for step, kind in enumerate(("proxy", *KINDS))} if port else free_ports()
    settle_in(folder)
    configure(folder, ports)
    servers = [multiprocessing.Process(target=serve, args=(kind, folder), name=kind, daemon=True) for kind in ports]
    try:
        for server in servers:
            server.start()
        for server in servers:
            wait_for(ports[server.name], server)
        print(f"http://127.0.0.1:{ports['proxy']}", flush=True)
        if port:
            signal.signal(signal.SIGTERM, end)
            multiprocessing.connection.wait([server.sentinel for server in servers])
        else:
            sys.stdin.read()
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.join(5)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:]))
