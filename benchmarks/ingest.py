"""Time the fetch of one version of a dataset from S3, and tell the memory that it takes at two sizes of dataset.

python -m benchmarks.ingest [--json] [--data DIR] [--pairs 200 810] [--bytes 17000]

The remote lies on a loopback S3 server (moto) in another process, whose work shares the cores with the fetch. Without
--data the files are made up, as large as the atlas's. Every fetch has a process of its own.
"""

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import platform
import random
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.ingest.remote import Remote, fetch_version, list_version
from components.ingest.s3 import THREADS
from components.ingest.version import data_files, file_md5

FILE_BYTES = 17_000  # what a slice of the atlas takes on average
REMOTE = Remote("atlas", "dvc")


def publish(client: Any, remote: Remote, files: Iterable[tuple[str, Path]]) -> str:
    """Put (relative path, file) entries on S3 in the layout of a DVC remote; the version that they make."""
    listed = sorted(files, key=lambda entry: entry[0].split("/"))
    entries = [{"md5": file_md5(file), "relpath": path} for path, file in listed]
    listing = json.dumps(entries).encode()
    version = hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir"
    content = {entry["md5"]: file for entry, (_, file) in zip(entries, listed, strict=True)}

    def put(md5: str) -> None:
        client.put_object(Bucket=remote.bucket, Key=remote.key(md5), Body=content[md5].read_bytes())

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put, content))
    client.put_object(Bucket=remote.bucket, Key=remote.key(version), Body=listing)
    return version


def make_files(folder: Path, count: int, size: int) -> list[tuple[str, Path]]:
    """Files as incompressible as PNG slices are, in two folders like the slices of pairs."""
    generator = random.Random(0)
    files = []
    for number in range(count):
        path = f"CT-MRI/{('CT', 'MRI')[number % 2]}/{number // 2:04d}001.png"
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(generator.randbytes(size))
        files.append((path, file))
    return files


def serve(data: Path | None, pairs: list[int], size: int, pipe: Any) -> None:
    """Serve one version for each number of pairs until told to end; the child process of `compare`."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    os.environ["AWS_ENDPOINT_URL_S3"] = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3")
    client.create_bucket(Bucket=REMOTE.bucket)
    with tempfile.TemporaryDirectory() as scratch:
        if data:
            files = [(path.relative_to(data).as_posix(), path) for path in data_files(data)]
        else:
            files = make_files(Path(scratch), 2 * max(pairs), size)
        versions = [publish(client, REMOTE, files[: 2 * count]) for count in pairs]
    pipe.send((os.environ["AWS_ENDPOINT_URL_S3"], versions))
    pipe.recv()
    server.stop()


def fetch(endpoint: str, version: str, pipe: Any) -> None:
    """Fetch a version; tell seconds, bytes and by how much the process grew. The child process of `compare`."""
    os.environ["AWS_ENDPOINT_URL_S3"] = endpoint
    list_version(REMOTE, version)  # boto3 is loaded before the measurement
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _peak_kb()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "data"
        start, computed = time.perf_counter(), time.process_time()
        entries = fetch_version(REMOTE, version, target, progress=lambda *_: None)
        seconds, computed = time.perf_counter() - start, time.process_time() - computed
        size = sum(path.stat().st_size for path in data_files(target))
    growth = (_peak_kb() - before) / 1024
    pipe.send({"files": len(entries), "bytes": size, "seconds": seconds, "cpu seconds": computed, "growth MB": growth})


def compare(data: Path | None, pairs: list[int], size: int) -> dict[str, Any]:
    """The fetch of each number of pairs from one server."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "benchmark"
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        os.environ.pop(name, None)
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    server = spawn.Process(target=serve, args=(data, pairs, size, theirs), daemon=True)
    server.start()
    endpoint, versions = pipe.recv()
    results = []
    for count, version in zip(pairs, versions, strict=True):
        ours, child = spawn.Pipe()
        worker = spawn.Process(target=fetch, args=(endpoint, version, child))
        worker.start()
        results.append({"pairs": count} | ours.recv())
        worker.join()
    pipe.send("end")
    server.join()
    cores = len(os.sched_getaffinity(0))
    return {"fetches": results, "data": data.name if data else "made up", "cores": cores, "threads": THREADS}


def _peak_kb() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--data", type=Path, help="a data folder, such as the atlas; default: made-up files")
    parser.add_argument("--pairs", type=int, nargs="+", default=[200, 810], help="the sizes of dataset")
    parser.add_argument("--bytes", type=int, default=FILE_BYTES, help="the size of a made-up file")
    given = parser.parse_args()
    result = compare(given.data, given.pairs, given.bytes)
    if given.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"Fetch from a loopback S3 server, {result['threads']} threads on {result['cores']} cores, "
        f"data: {result['data']} ({platform.machine()})"
    )
    for each in result["fetches"]:
        rate = each["bytes"] / 1e6 / each["seconds"]
        print(
            f"  {each['pairs']:5d} pairs  {each['files']:5d} files  {each['bytes'] / 1e6:6.1f} MB  "
            f"{each['seconds']:6.2f} s  {rate:5.1f} MB/s  {each['cpu seconds']:5.2f} s of CPU  "
            f"peak memory +{each['growth MB']:.1f} MB"
        )


if __name__ == "__main__":
    main()
