"""Images of the checkout, made by the command that `make containerize` runs."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from local.process import ROOT
from tests.images.engine import Engine

BASE_IMAGE = "localhost/debian-python:bookworm"
VERSION = "0.0.0-test"
# What a builder has in the shell is not the image's business.
SECRET = "a-token-of-the-builder"
_SHELL = {"LOGGING_TOKEN": SECRET, "MLFLOW_TRACKING_PASSWORD": SECRET, "WORKERS": "3"}
_SECONDS = 600.0


@dataclass(frozen=True)
class BuiltImage:
    """An image and what the command said of it."""

    name: str
    megabytes: float
    bill_of_materials: str


@dataclass(frozen=True)
class BuiltImages:
    """Both images."""

    inference: BuiltImage
    logging: BuiltImage


def containerize(engine: Engine, home: Path, name: str, *, backend: str) -> BuiltImage:
    """Make one image with a backend; `home` takes the Bentos."""
    command = [sys.executable, "-m", "images.containerize", "--only", name, "--backend", backend]
    command += ["--sbom", str(home / "sbom")]
    environment = os.environ | engine.environment(build=True) | _SHELL | build_settings()
    environment |= {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-5_000:]
    print(finished.stdout)
    image, size, unit = finished.stdout.split()
    assert (image, unit) == (f"{name}:{VERSION}", "MB")
    return BuiltImage(
        name=image,
        megabytes=float(size.replace(",", "")),
        bill_of_materials=str(home / "sbom" / f"{name}-{VERSION}.cdx.json"),
    )


def build_settings() -> dict[str, str]:
    """Return the settings that the images are built with; with others they would be built anew."""
    return {"BASE_IMAGE": BASE_IMAGE, "VERSION": VERSION, **_torch_wheels()}


def _torch_wheels() -> dict[str, str]:
    """Return where pip finds torch on this machine, where that is a directory."""
    if "TORCH_WHEELS" in os.environ:
        return {}
    for place in os.environ.get("PIP_FIND_LINKS", "").split():
        if any(Path(place).glob("torch-*.whl")):
            return {"TORCH_WHEELS": place}
    return {}
