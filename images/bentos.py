"""The two Bentos of this repository: their names, versions and what goes into each."""

import hashlib
import importlib.metadata
import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from bentos.process.image import (
    BASE_IMAGE_VARIABLE,
    DEFAULT_BASE_IMAGE,
    DEFAULT_TORCH_WHEELS,
    TORCH_WHEELS_VARIABLE,
)

ROOT = Path(__file__).resolve().parents[1]
VERSION_VARIABLE = "VERSION"
TORCH_WHEELS_MOUNT = "/torch-wheels"
FINGERPRINT_LABEL = "truthful-serving.inputs"

Torch = Literal["cpu", "cuda"]


class BuildError(Exception):
    """A Bento or an image that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class BentoSource:
    """A Bento as the checkout describes it."""

    name: str
    title: str
    bentofile: Path
    has_torch: bool

    @property
    def options(self) -> dict[str, Any]:
        """What the bentofile says."""
        return dict(yaml.safe_load(self.bentofile.read_text()))

    @property
    def files(self) -> list[Path]:
        """The files of the checkout that go into the Bento."""
        found = {path for pattern in self.options["include"] for path in ROOT.glob(pattern)}
        return sorted(found)

    @property
    def requirements(self) -> Path:
        """The pinned packages of the image."""
        return ROOT / str(self.options["python"]["requirements_txt"])


SOURCES = (
    BentoSource(
        name="inference_service",
        title="Inference service",
        bentofile=ROOT / "bentofile.yaml",
        has_torch=True,
    ),
    BentoSource(
        name="logging_service",
        title="Logging service",
        bentofile=ROOT / "bentos" / "logging" / "bentofile.yaml",
        has_torch=False,
    ),
)


@dataclass(frozen=True)
class BuildOptions:
    """What a builder may set: all else comes from the checkout.

    `wheels` is what uv is told to look at for torch; `wheels_directory` is mounted there while
    the image is built, where it is a directory of the builder's machine.
    """

    version: str
    torch: Torch
    base_image: str
    wheels: str
    wheels_directory: Path | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, torch: Torch) -> "BuildOptions":
        """Read VERSION, BASE_IMAGE and TORCH_WHEELS; BuildError where one cannot be used."""
        version = environment.get(VERSION_VARIABLE) or _project()["version"]
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,127}", version):
            raise BuildError(
                f"{VERSION_VARIABLE} is '{version}'; a tag has lower-case letters, digits, "
                "'.', '_' and '-', and begins with a letter or digit"
            )
        wheels = environment.get(TORCH_WHEELS_VARIABLE) or DEFAULT_TORCH_WHEELS
        directory = None
        if torch == "cuda":
            wheels = ""
        elif "://" not in wheels:
            directory = Path(wheels).expanduser().resolve()
            if not any(directory.glob("torch-*.whl")):
                raise BuildError(
                    f"{TORCH_WHEELS_VARIABLE} is '{wheels}', neither a URL nor a directory with "
                    "a wheel of torch"
                )
            wheels = TORCH_WHEELS_MOUNT
        return cls(
            version=version,
            torch=torch,
            base_image=environment.get(BASE_IMAGE_VARIABLE) or DEFAULT_BASE_IMAGE,
            wheels=wheels,
            wheels_directory=directory,
        )

    def tag(self, source: BentoSource) -> str:
        """Return the tag of a Bento, which is its image's too: a CUDA build has one of its own."""
        suffix = "-cuda" if source.has_torch and self.torch == "cuda" else ""
        return f"{source.name}:{self.version}{suffix}"

    def environment(self) -> dict[str, str]:
        """Return what the service's module reads while it is built."""
        return {BASE_IMAGE_VARIABLE: self.base_image, TORCH_WHEELS_VARIABLE: self.wheels}


def fingerprint(source: BentoSource, options: BuildOptions) -> str:
    """Return a digest of all that decides what is in the Bento."""
    digest = hashlib.sha256()
    settings = (options.tag(source), options.base_image, options.wheels if source.has_torch else "")
    for setting in (*settings, importlib.metadata.version("bentoml")):
        digest.update(f"{setting}\0".encode())
    for path in (source.bentofile, source.requirements, *source.files):
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def labels(source: BentoSource, options: BuildOptions) -> dict[str, str]:
    """Return the labels of a Bento, by the names of the OCI image specification."""
    prefix = "org.opencontainers.image"
    told = {
        f"{prefix}.title": source.title,
        f"{prefix}.description": source.options["description"],
        f"{prefix}.version": options.tag(source).partition(":")[2],
        f"{prefix}.licenses": _project()["license"],
        f"{prefix}.base.name": options.base_image,
        FINGERPRINT_LABEL: fingerprint(source, options),
    }
    revision = _revision()
    if revision:
        told[f"{prefix}.revision"] = revision
    return told


def bentoml_home() -> Path:
    """Return where BentoML keeps its Bentos.

    Raises BuildError where that is inside the repository.
    """
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml").expanduser().resolve()
    if home.is_relative_to(ROOT):
        raise BuildError(
            f"BENTOML_HOME is {home}, inside the repository: the build would copy itself into "
            "itself; set BENTOML_HOME to a folder outside it"
        )
    return home


def _project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def _revision() -> str:
    """Return the commit, marked where files differ from it; empty outside a git checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-modified"]
    try:
        finished = subprocess.run(  # noqa: S603 - a fixed command, no shell
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return finished.stdout.strip()
