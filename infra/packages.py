"""List every Debian and Python package of the system this runs in, as a CycloneDX bill of materials on standard output.

docker run --rm --interactive IMAGE python3 - NAME DIGEST <infra/packages.py     (infra/image.sh does)
"""

import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from typing import Any
from urllib.parse import quote

_FIELDS = ("binary:Package", "Version", "Architecture", "source:Package", "source:Version", "db:Status-Status")
_OPERATING_SYSTEM = "/etc/os-release"


def debian_packages() -> list[dict[str, Any]]:
    """The installed Debian packages, as components."""
    form = "\t".join(f"${{{field}}}" for field in _FIELDS) + "\n"
    told = subprocess.run(["dpkg-query", "--show", f"--showformat={form}"], check=True, capture_output=True, text=True)
    rows = (line.split("\t") for line in told.stdout.splitlines())
    return [debian_package(*row[:5]) for row in rows if row[5] == "installed"]


def debian_package(name: str, version: str, architecture: str, source: str, source_version: str) -> dict[str, Any]:
    """One of them; scanners find its vulnerabilities by the source package that `purl` names."""
    name = name.partition(":")[0]
    upstream = quote(f"{source}@{source_version}", safe="@")
    qualifiers = f"arch={architecture}&distro=debian-{release()}&upstream={upstream}"
    return component(name, version, f"pkg:deb/debian/{quote(name)}@{quote(version)}?{qualifiers}")


def release() -> str:
    """The release of Debian, such as 12."""
    with open(_OPERATING_SYSTEM) as file:  # noqa: PTH123
        facts = dict(line.rstrip().split("=", 1) for line in file if "=" in line)
    return facts["VERSION_ID"].strip('"')


def python_packages() -> list[dict[str, Any]]:
    """The installed Python distributions, as components."""
    return [python_package(found) for found in distributions()]


def python_package(found: Distribution) -> dict[str, Any]:
    """One of them, with the licence that its metadata declares."""
    name, version = found.metadata["Name"], found.version
    purl = f"pkg:pypi/{quote(name.lower().replace('_', '-'))}@{quote(version)}"
    declared = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    licence = declared.strip().splitlines()[0][:100] if declared.strip() else ""
    return component(name, version, purl) | ({"licenses": [{"license": {"name": licence}}]} if licence else {})


def component(name: str, version: str, purl: str) -> dict[str, Any]:
    """A component of type library."""
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main(image: str, digest: str) -> None:
    """Print the bill of materials of the image, its parts in order of their names."""
    parts = {part["bom-ref"]: part for part in debian_packages() + python_packages()}
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {"type": "container", "bom-ref": image, "name": image, "version": digest},
        },
        "components": [parts[reference] for reference in sorted(parts)],
    }
    json.dump(bill, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
