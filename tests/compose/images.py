"""Images in the place of those that compose.yaml takes from a registry, under the same names."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from local.process import find_program
from monitoring.stack import ALERTMANAGER_PROGRAMS, PROMETHEUS_PROGRAMS
from tests.images.building import BASE_IMAGE
from tests.images.engine import Engine

STAND_INS = Path(__file__).with_name("stand_ins")
STOOD_IN_FOR = ("prometheus", "alertmanager", "grafana")
# Debian's Alertmanager reads what its maker's has inside.
_TEMPLATES = Path("/usr/share/prometheus/alertmanager")
_GET = "apt-get install prometheus prometheus-alertmanager"


def build_stand_ins(engine: Engine, compose: dict[str, Any], folder: Path) -> None:
    """Build them in a folder; AssertionError with podman's words where that fails."""
    shutil.copytree(STAND_INS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, programs in (
        ("prometheus", PROMETHEUS_PROGRAMS),
        ("alertmanager", ALERTMANAGER_PROGRAMS),
    ):
        shutil.copy(find_program(programs, _GET), folder / name)
    shutil.copytree(_TEMPLATES, folder / "templates")
    shutil.copytree(Path(yaml.__file__).parent, folder / "yaml")
    for target in STOOD_IN_FOR:
        command = ["podman", "build", "--quiet", "--target", target]
        command += ["--build-arg", f"BASE_IMAGE={BASE_IMAGE}"]
        command += ["--tag", compose["services"][target]["image"], str(folder)]
        finished = subprocess.run(
            command,
            env=os.environ | engine.environment(build=True),
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr[-3_000:]
