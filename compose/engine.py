"""What runs compose.yaml on this machine: docker compose, podman compose or podman-compose."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from images.bentos import FINGERPRINT_LABEL, BuildError
from images.containerize import require
from local.process import ROOT, Process, StepError

Backend = Literal["docker", "podman"]

_CANDIDATES: Sequence[tuple[Backend, tuple[str, ...]]] = (
    ("docker", ("docker", "compose")),
    ("podman", ("podman", "compose")),
    ("podman", ("podman-compose",)),
)
_ADVICE = (
    "Install Docker with its compose plugin, or podman; podman-compose is in the virtual"
    " environment already."
)


@dataclass(frozen=True)
class ComposeEngine:
    """A program that runs compose.yaml, with the variables that the file is filled in with.

    `backend` is the program beneath it, which builds images and knows them.
    """

    backend: Backend
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a user types, without the folder it lies in."""
        return " ".join((Path(self.command[0]).name, *self.command[1:]))

    def run(self, *arguments: str) -> None:
        """Run a command on compose.yaml; StepError where it fails, after its own words."""
        finished = subprocess.run(  # noqa: S603 - one of the candidates, no shell
            [*self.command, *arguments], cwd=ROOT, env=self._environment, check=False
        )
        if finished.returncode:
            raise StepError(f"{self.name} {arguments[0]} failed; the lines above say why")

    def log(self, service: str, *options: str) -> Process:
        """Show a container's log: with `--follow`, until the container or the process ends."""
        command = [*self.command, "logs", "--no-color", "--no-log-prefix", *options, service]
        return Process(command, environment=self._environment)

    def containers(self) -> list[str]:
        """Return the ids of the stack's running containers; none where it cannot say."""
        finished = subprocess.run(  # noqa: S603 - one of the candidates, no shell
            [*self.command, "ps", "--quiet"],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return finished.stdout.split()

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def fingerprint(self, image: str) -> str | None:
        """Return what an image says that it was built from; None where there is no such image."""
        template = f'{{{{index .Config.Labels "{FINGERPRINT_LABEL}"}}}}'
        finished = subprocess.run(  # noqa: S603 - one of the candidates, no shell
            [self.backend, "image", "inspect", "--format", template, image],
            capture_output=True,
            text=True,
            check=False,
        )
        return finished.stdout.strip() if finished.returncode == 0 else None


def find_engine(wanted: str | None, environment: Mapping[str, str]) -> ComposeEngine:
    """Return the first that works; `wanted` is `docker` or `podman` where only that one will do.

    Raises StepError that says of each why it does not work.
    """
    known = {backend for backend, _ in _CANDIDATES}
    if wanted and wanted not in known:
        raise StepError(f"BACKEND is '{wanted}'; `make up` takes {' or '.join(sorted(known))}")
    reasons = []
    for backend, command in _CANDIDATES:
        if wanted and wanted != backend:
            continue
        try:
            return _working(backend, command, environment)
        except (StepError, BuildError) as error:
            reasons.append(f"  {' '.join(command)}: {str(error).splitlines()[0]}")
    raise StepError("nothing here runs compose.yaml\n" + "\n".join([*reasons, _ADVICE]))


def _working(
    backend: Backend, command: tuple[str, ...], environment: Mapping[str, str]
) -> ComposeEngine:
    # podman-compose is installed with the other tools, whose folder need not be on PATH.
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))
    program = shutil.which(command[0], path=places)
    if program is None:
        raise StepError("it is not installed")
    found = ComposeEngine(backend, (program, *command[1:]), environment)
    asked = subprocess.run(  # noqa: S603 - one of the candidates, no shell
        [*found.command, "version"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        words = (asked.stderr.strip() or asked.stdout.strip()).splitlines()
        raise StepError(words[-1] if words else "it does not work")
    require(backend)
    return found
