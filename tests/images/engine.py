"""podman and buildah with a storage, a network and settings of their own, for one test run.

Nothing of the machine's own images, containers, networks or settings is read or changed, and
`close` takes everything away again.
"""

import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.images.base_image import CA_BUNDLE, ENVIRONMENT

TOOLS = ("podman", "buildah", "runc", "iptables", "debootstrap")
HELPERS = (Path("/usr/lib/podman/netavark"), Path("/usr/libexec/podman/catatonit"))
PACKAGES = "podman buildah runc netavark iptables catatonit debootstrap"
NETWORK = "services"

_PREFIX = "images-test-"
_COMMAND_SECONDS = 120.0
_MOST_PROCESSES = 32_768


def missing() -> list[str]:
    """Return what this machine lacks to build and run images."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    lacking += [str(helper) for helper in HELPERS if not helper.exists()]
    if os.geteuid() != 0:
        lacking.append("root")
    return lacking


class Engine:
    """One storage of images and containers, and the network the containers are on."""

    def __init__(self, directory: Path | None = None) -> None:
        """Make one, or use the one that another process has made in a directory."""
        self.directory = directory or Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self._storage = self.directory / "storage.conf"
        self._for_builds = self.directory / "build.conf"
        self._for_runs = self.directory / "run.conf"
        if directory is None:
            self._write_settings()
            self.run("network", "create", "--disable-dns", NETWORK)

    def _write_settings(self) -> None:
        self._storage.write_text(
            "[storage]\n"
            'driver = "overlay"\n'
            f'graphroot = "{self.directory}/graph"\n'
            f'runroot = "{self.directory}/run"\n'
        )
        # A build reaches the package index as this machine does; the certificates for it are
        # mounted and so no part of the image.
        volumes = f'volumes = ["{CA_BUNDLE}:{CA_BUNDLE}:ro"]\n' if CA_BUNDLE.exists() else ""
        self._write_containers(self._for_builds, volumes)
        self._write_containers(self._for_runs, "")

    def _write_containers(self, path: Path, volumes: str) -> None:
        # Without bounds that the machine allows every start fails.
        files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1_048_576)
        path.write_text(
            "[containers]\n"
            f'default_ulimits = ["nofile={files}:{files}", '
            f'"nproc={_MOST_PROCESSES}:{_MOST_PROCESSES}"]\n'
            f"{volumes}"
            "[engine]\n"
            'runtime = "runc"\n'
            'cgroup_manager = "cgroupfs"\n'
            'events_logger = "file"\n'
            'lock_type = "file"\n'
            f'tmp_dir = "{self.directory}/tmp"\n'
            "[network]\n"
            'network_backend = "netavark"\n'
            f'network_config_dir = "{self.directory}/networks"\n'
        )

    def environment(self, *, build: bool = False) -> dict[str, str]:
        """Return the variables by which podman and buildah find this engine."""
        return {
            "CONTAINERS_CONF": str(self._for_builds if build else self._for_runs),
            "CONTAINERS_STORAGE_CONF": str(self._storage),
        }

    def run(
        self, *arguments: str, check: bool = True, seconds: float = _COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a podman command; AssertionError with its words where it fails."""
        finished = subprocess.run(
            ["podman", *arguments],
            env=os.environ | self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or finished.returncode == 0, f"podman {arguments}: {finished.stderr}"
        return finished

    def inspect(self, *arguments: str) -> dict[str, Any]:
        """Return what podman knows of one thing."""
        found: dict[str, Any] = json.loads(self.run(*arguments).stdout)[0]
        return found

    def import_base(self, archive: Path, name: str) -> None:
        """Make an image of a root file system."""
        changes = [f"--change=ENV={key}={value}" for key, value in ENVIRONMENT.items()]
        self.run("import", "--quiet", *changes, str(archive), name)

    @property
    def gateway(self) -> str:
        """The machine's address in the containers' network."""
        return str(self.inspect("network", "inspect", NETWORK)["subnets"][0]["gateway"])

    def start(
        self,
        name: str,
        image: str,
        *,
        user: str,
        env: Mapping[str, str],
        volumes: Sequence[str],
        restart: str = "no",
    ) -> None:
        """Start a container as a careful cluster would.

        Its root is read-only, it has no capability and can gain none; `volumes` name all that it
        may write to, and /tmp.
        """
        options = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL"]
        options += ["--security-opt=no-new-privileges", "--tmpfs=/tmp:rw,nosuid,nodev"]
        options += [f"--user={user}", f"--network={NETWORK}", f"--restart={restart}"]
        options += [f"--env={key}={value}" for key, value in env.items()]
        options += [f"--volume={volume}" for volume in volumes]
        self.run("run", "--detach", "--name", name, *options, image)

    def remove(self, name: str) -> None:
        """Remove a container, running or not."""
        self.run("rm", "--force", "--time=0", "--volumes", name)

    @staticmethod
    def sweep() -> None:
        """Take away what runs left that were killed before they could."""
        for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            pid = left.name.removeprefix(_PREFIX).partition("-")[0]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                Engine(left).close()

    def close(self) -> None:
        """Remove containers, networks, mounts and files."""
        try:
            self.run("pod", "rm", "--all", "--force", "--time=0", check=False)
            self.run("rm", "--all", "--force", "--time=0", "--volumes", check=False)
            self.run("network", "prune", "--force", check=False)
        finally:
            for point in reversed(_mounts_below(self.directory)):
                subprocess.run(["umount", "--lazy", point], check=True)
            # More than a hundred thousand files; none beyond a mount that may be left.
            command = ["rm", "-rf", "--one-file-system", str(self.directory)]
            subprocess.run(command, check=True)


def _mounts_below(directory: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in mounts if Path(point).is_relative_to(directory)]
