"""A container of a manifest, run as a process of this machine: its command, environment and mounted files, and, where
root runs the tests, a file system that can be written only where the container's can, and no capabilities.
"""

import base64
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

Manifest = dict
TOOLS = {"python": [sys.executable], "mlflow": [sys.executable, "-m", "mlflow"], "bash": ["bash"]}
ROOT = Path(__file__).resolve().parents[2]
CONFINE = """
for place in "$@"; do [ "$place" = -- ] && break; mount --bind "$place" "$place"; done
mount -o remount,ro,bind /
while [ "$1" != -- ]; do shift; done; shift
exec setpriv --no-new-privs --bounding-set=-all "$@"
"""


def can_confine() -> bool:
    """Whether this machine lets us take the right to write away from a process."""
    if os.getuid() or not shutil.which("unshare") or not shutil.which("setpriv"):
        return False
    return (
        subprocess.run(["unshare", "--mount", "mount", "-o", "remount,ro,bind", "/"], capture_output=True).returncode
        == 0
    )


@dataclass
class Cluster:
    """The objects of an overlay, the Secrets that the runbook has made, and a folder for volumes."""

    things: list[Manifest]
    secrets: dict[tuple[str, str], dict[str, str]]  # by namespace and name
    folder: Path
    namespace: str = "atlas-fusion-registry"

    def find(self, kind: str, name: str) -> Manifest:
        return next(thing for thing in self.things if (thing["kind"], thing["metadata"]["name"]) == (kind, name))

    def secret(self, name: str) -> dict[str, str]:
        """What a Secret of the pods' own namespace holds; a KeyError if there is none."""
        return self.secrets[self.namespace, name]

    def pod(self, kind: str, name: str) -> Manifest:
        spec = self.find(kind, name)["spec"]
        return (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]["spec"]

    def volume(self, volume: Manifest) -> Path:
        """A folder with what the volume holds; a claim's is the same for every pod."""
        if claim := volume.get("persistentVolumeClaim"):
            place = self.folder / "claims" / claim["claimName"]
        elif volume["name"] == "fetched":  # both containers of one pod see it; a test clears it
            place = self.folder / "fetched"
        else:
            place = self.folder / "volumes" / str(len(list(self.folder.glob("volumes/*"))))
        place.mkdir(parents=True, exist_ok=True)
        files = {}
        if configured := volume.get("configMap"):
            files = self.find("ConfigMap", configured["name"])["data"]
        if secret := volume.get("secret"):
            files = {item["path"]: self.secret(secret["secretName"])[item["key"]] for item in secret["items"]}
        for name, content in files.items():
            (place / name).write_text(content)
        return place

    def value(self, entry: Manifest) -> str | None:
        """What a variable of a container stands for; None where that is optional and not there."""
        if "value" in entry:
            return entry["value"]
        (kind, reference), *_ = entry["valueFrom"].items()
        known = self.secrets.get((self.namespace, reference["name"]), {})
        if kind == "configMapKeyRef":
            known = self.find("ConfigMap", reference["name"]).get("data", {})
        return known.get(reference["key"]) if reference.get("optional") else known[reference["key"]]

    def command(
        self, kind: str, name: str, also: tuple[Path, ...] = (), which: str = "", **instead: str
    ) -> tuple[list[str], dict[str, str]]:
        """Command line and environment of a pod's container, which may write to its volumes and to `also`.

        `which` names the container where there are several; `instead` are other values of its variables.
        """
        pod = self.pod(kind, name)
        among = [*pod.get("initContainers", []), *pod["containers"]]
        (container,) = [each for each in among if which in ("", each["name"])]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: self.volume(volumes[mount["name"]]) for mount in container["volumeMounts"]}

        def here(text: str) -> str:
            return re.sub(rf"(?<![\w/])({'|'.join(mounts)})(?=/|$)", lambda found: str(mounts[found[1]]), text)

        environment = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                environment |= self.find("ConfigMap", source["configMapRef"]["name"])["data"]
            else:
                environment |= self.secret(source["secretRef"]["name"])
        for entry in container.get("env", []):
            if (value := self.value(entry)) is not None:
                environment[entry["name"]] = here(value)
        program, *arguments = container["command"]
        outside = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        outside["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        outside["TMPDIR"] = str(mounts["/tmp"])
        command = [*TOOLS[program], *map(here, arguments)]
        if can_confine():
            writable = [
                str(mounts[each["mountPath"]]) for each in container["volumeMounts"] if not each.get("readOnly")
            ]
            command = [
                "unshare",
                "--mount",
                "bash",
                "-ec",
                CONFINE,
                "confine",
                *writable,
                *map(str, also),
                "--",
                *command,
            ]
        return command, outside | environment | instead


def decoded(secret: Manifest) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
