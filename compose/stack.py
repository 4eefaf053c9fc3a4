"""The stack of compose.yaml, started and stopped: what `make up` and `make down` run."""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from bentos.health.probes import READY_PATH
from bentos.inference.settings import InferenceSettings
from bentos.process.settings import load_settings
from compose.demo_model import alias_url
from compose.engine import ComposeEngine, find_engine
from examples.demo import show_predictions
from examples.demo_model import demo_images
from images.bentos import SOURCES, BuildError, BuildOptions, fingerprint
from local.process import HOST, ROOT, Process, StepError, is_taken, refusal

# Everything takes a minute on an idle machine, and this long on one that has other things to do.
READY_SECONDS = 900.0
_LOG_LINES = 10
PICTURES = 6
# Nothing is ready at once: why a part is not is worth a line where it lasts longer than this.
_QUIET_SECONDS = 10.0
# A part that gives no answer for so long may be starting again and again.
_LOG_SECONDS = 60.0
_DEMO_MODEL: Final = "demo-model"
_CONFIGURATION: Final = (
    "compose/*.py",
    "compose/*.yml",
    "compose/mlflow/Dockerfile",
    "requirements/dev.txt",
    "monitoring/prometheus/alertmanager.yml",
    "monitoring/prometheus/rules/*.yml",
    "monitoring/grafana/provisioning/*/*.yaml",
    "monitoring/grafana/dashboards/*.json",
)
_SILENT: Final = "it does not answer"
_POLL_SECONDS = 0.3


class Ports(BaseSettings):
    """The ports of this machine that lead to the stack; a variable of the same name sets each."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, env_file=ROOT / ".env"
    )

    inference_port: int = Field(default=8000, ge=1, le=65_535)
    inference_probe_port: int = Field(default=8010, ge=1, le=65_535)
    logging_port: int = Field(default=8001, ge=1, le=65_535)
    logging_probe_port: int = Field(default=8011, ge=1, le=65_535)
    mlflow_port: int = Field(default=5000, ge=1, le=65_535)
    prometheus_port: int = Field(default=9090, ge=1, le=65_535)
    alertmanager_port: int = Field(default=9093, ge=1, le=65_535)
    grafana_port: int = Field(default=3000, ge=1, le=65_535)

    def environment(self) -> dict[str, str]:
        """Return them as compose.yaml reads them."""
        return {name.upper(): str(port) for name, port in self.model_dump().items()}


@dataclass(frozen=True)
class Part:
    """A container of the stack: where people find it, and what answers 200 once it is ready."""

    service: str
    url: str
    ready_url: str


def parts_of(ports: Ports) -> list[Part]:
    """Return the parts in the order in which they need each other."""

    def part(service: str, port: int, ready_path: str, ready_port: int | None = None) -> Part:
        return Part(service, _url(port), _url(ready_port or port) + ready_path)

    model = InferenceSettings.model_fields
    mlflow = _url(ports.mlflow_port)
    registered = alias_url(mlflow, model["model_name"].default, model["model_stage"].default)
    return [
        part("mlflow", ports.mlflow_port, "/health"),
        Part(_DEMO_MODEL, mlflow, registered),
        part("logging-service", ports.logging_port, READY_PATH, ports.logging_probe_port),
        part("inference-service", ports.inference_port, READY_PATH, ports.inference_probe_port),
        part("alertmanager", ports.alertmanager_port, "/-/ready"),
        part("prometheus", ports.prometheus_port, "/-/ready"),
        part("grafana", ports.grafana_port, "/api/health"),
    ]


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def inputs(options: BuildOptions) -> str:
    """Return a digest of all that the containers are made of and configured with."""
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update(fingerprint(source, options).encode())
    for pattern in _CONFIGURATION:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def build_images(engine: ComposeEngine, options: BuildOptions) -> None:
    """Build the images that are missing or were not built from the checkout as it stands."""
    for source in SOURCES:
        image = options.tag(source)
        if engine.fingerprint(image) == fingerprint(source, options):
            _say(f"{image} is built and up to date")
            continue
        _say(f"building {image}: a few minutes the first time")
        command = [sys.executable, "-m", "images.containerize", "--only", source.name]
        command += ["--backend", engine.backend, "--torch", options.torch]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:  # noqa: S603 - our module
            raise StepError(f"{image} was not built; the lines above say why")
    engine.run("build", "mlflow")


def refuse_taken_ports(ports: Ports) -> None:
    """Raise StepError where something else listens on a port of the stack."""
    for name, port in ports.model_dump().items():
        if is_taken(port):
            raise StepError(
                f"port {port} is taken; stop what listens there, or choose another:"
                f" make up {name.upper()}={port + 10_000}"
            )


def wait_until_ready(
    parts: Sequence[Part],
    report: Callable[[str], None],
    show_log: Callable[[str], None],
    *,
    training: Process,
    seconds: float = READY_SECONDS,
) -> None:
    """Return once every part is ready, reporting each, and why a part is not as that changes.

    `show_log` is called with the name of a part that gives no answer for long. `training` is a
    process that shows the demo model's training and ends with it. Raises StepError where a part is
    not ready in time, or where training ended without a model.
    """
    began = time.monotonic()
    waiting = list(parts)
    reasons: dict[str, str] = {}
    shown: set[str] = set()
    while waiting:
        # Asked before the registry is: a model is there when training has ended, not afterwards.
        trained = not training.is_running
        for part in tuple(waiting):
            name, reason = part.service, refusal(part.ready_url)
            passed = time.monotonic() - began
            if reason is None:
                waiting.remove(part)
                report(f"{name} is ready after {passed:.0f} s")
            elif name == _DEMO_MODEL:
                if trained and reason != _SILENT:
                    raise StepError("there is no demo model; the lines above say why")
            elif passed > _QUIET_SECONDS and reason != reasons.get(name):
                reasons[name] = reason
                report(f"{name} is not ready yet: {reason}")
            elif passed > _LOG_SECONDS and reason == _SILENT and name not in shown:
                shown.add(name)
                show_log(name)
        if waiting and time.monotonic() - began > seconds:
            names = [part.service for part in waiting]
            for name in names:
                show_log(name)
            raise StepError(f"not ready within {seconds:g} s: {', '.join(names)}")
        time.sleep(_POLL_SECONDS)


def up(ports: Ports, engine: ComposeEngine, options: BuildOptions) -> None:
    """Build, start, wait and send a few pictures; StepError where a step fails."""
    began = time.monotonic()
    _say(f"using {engine.name}")
    if not engine.containers():
        refuse_taken_ports(ports)
    build_images(engine, options)
    _say("starting the stack")
    engine.run("up", "--detach")
    parts = parts_of(ports)

    def show_log(service: str) -> None:
        _say(f"the end of the log of {service}:")
        engine.log(service, "--tail", str(_LOG_LINES)).wait()

    with engine.log(_DEMO_MODEL, "--follow") as training:
        wait_until_ready(parts, _say, show_log, training=training)
    urls = {part.service: part.url for part in parts}
    files = random.Random(0).sample(demo_images(), PICTURES)  # noqa: S311 - no secret
    show_predictions(urls["inference-service"], urls["logging-service"], files)
    _say(f"everything is ready after {time.monotonic() - began:.0f} s:")
    for part in parts:
        if part.service != _DEMO_MODEL:
            _say(f"  {part.service:18} {part.url}")
    _say("`make down` stops it, `make down DATA=1` also forgets what it stored")


def main(arguments: Sequence[str] | None = None) -> int:
    """Start or stop the stack; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m compose.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="build what is missing, start everything and wait for it")
    stop = commands.add_parser("down", help="stop everything")
    stop.add_argument("--volumes", action="store_true", help="forget what it stored as well")
    given = parser.parse_args(arguments)
    try:
        # A GPU has to be handed to a container; the stack is for a look at everything else.
        options = BuildOptions.from_environment(os.environ, torch="cpu")
        ports = load_settings(Ports)
        environment = {
            **ports.environment(),
            "VERSION": options.version,
            "BASE_IMAGE": options.base_image,
            "INPUTS": inputs(options),
        }
        engine = find_engine(os.environ.get("BACKEND"), environment)
        if given.command == "up":
            up(ports, engine, options)
        else:
            engine.run("down", *(["--volumes"] if given.volumes else []))
    except (StepError, BuildError, httpx.HTTPError) as error:
        print(f"error: {error}\n`make down` stops what runs", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; `make down` stops what was started", file=sys.stderr, flush=True)
        return 130
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
