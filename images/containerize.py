"""Makes OCI images of the two Bentos: what `make containerize` runs.

An image has its Bento's tag as its name, and is made by docker, podman or buildah through
BentoML's own `containerize`. Its bill of materials is written to a folder.
"""

import argparse
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from bentos.process.image import TORCH_WHEELS_VARIABLE
from images.bentos import (
    SOURCES,
    TORCH_WHEELS_MOUNT,
    BentoSource,
    BuildError,
    BuildOptions,
)
from images.build import ensure, say, torch_default
from images.sbom import FOLDER, write

Backend = Literal["docker", "podman", "buildah"]
BACKENDS: tuple[Backend, ...] = ("docker", "podman", "buildah")

_PROBES: Mapping[Backend, Sequence[str]] = {
    "docker": ("version", "--format", "{{.Server.Version}}"),
    "podman": ("info", "--format", "{{.Version.Version}}"),
    "buildah": ("info",),
}
_UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def require(backend: Backend) -> None:
    """Raise BuildError where the backend is not installed or does not answer."""
    others = " or ".join(f"BACKEND={name}" for name in BACKENDS if name != backend)
    if shutil.which(backend) is None:
        raise BuildError(f"{backend} is not installed; install it, or use {others}")
    try:
        answer = run([backend, *_PROBES[backend]], seconds=60)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{backend} gives no answer within a minute") from None
    if answer.returncode:
        words = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        raise BuildError(
            f"{backend} is installed but does not work: {words[-1] if words else 'it says nothing'}"
            f"\nstart or repair it, or use {others}"
        )


def containerize(source: BentoSource, options: BuildOptions, backend: Backend) -> str:
    """Make the image of a Bento, building the Bento where it is needed; return the image's name.

    Raises BuildError where the backend fails; its own words are on standard error.
    """
    import bentoml
    from bentoml.exceptions import BentoMLException

    arguments: dict[str, object] = {}
    if source.has_torch and options.wheels_directory is not None:
        if backend == "docker":
            raise BuildError(
                f"docker mounts no directory into a build: give {TORCH_WHEELS_VARIABLE} as a URL, "
                "or use BACKEND=podman or BACKEND=buildah"
            )
        arguments["volume"] = f"{options.wheels_directory}:{TORCH_WHEELS_MOUNT}:ro"
    tag = ensure(source, options)
    say(f"containerizing {tag} with {backend}")
    try:
        made = bentoml.container.build(
            tag,
            backend=backend,
            label=dict(bentoml.bentos.get(tag).info.labels),
            **arguments,
        )
    except BentoMLException as error:
        raise BuildError(f"{tag}: {error}") from error
    if made is None:
        raise BuildError(f"{backend} did not make {tag}; the lines above say why")
    return tag


def size_of(image: str, backend: Backend) -> int:
    """Return the bytes of an image's layers as they lie on disk, uncompressed.

    Raises BuildError where the backend does not know the image.
    """
    if backend == "buildah":
        answer = run([backend, "images", "--format", "{{.Size}}", image])
    else:
        command = ["history", "--human=false", "--format", "{{.Size}}", image]
        answer = run([backend, *command])
    if answer.returncode:
        raise BuildError(f"{backend} does not know {image}: {answer.stderr.strip()}")
    return sum(_bytes(line) for line in answer.stdout.splitlines() if line.strip())


def _bytes(text: str) -> int:
    found = re.fullmatch(r"\s*([\d.]+)\s*([kKMGT]?B)?\s*", text)
    if found is None:
        raise BuildError(f"'{text}' is no size")
    return round(float(found[1]) * _UNITS[(found[2] or "B").upper()])


def run(
    command: Sequence[str], *, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a backend's command and return what it said."""
    return subprocess.run(  # noqa: S603 - one of BACKENDS, no shell
        command, capture_output=True, text=True, check=False, timeout=seconds
    )


class _Words(logging.Formatter):
    """A backend's words as they are, without BentoML's traceback around a failure."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage().rstrip()


def _show_progress() -> None:
    import bentoml  # noqa: F401 - it sets up the logger that is replaced here

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Words())
    logger = logging.getLogger("bentoml")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def main() -> int:
    """Make both images; print their names and sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backend", choices=BACKENDS, default="docker")
    parser.add_argument("--torch", choices=("cpu", "cuda"), default=torch_default())
    names = [source.name for source in SOURCES]
    parser.add_argument("--only", choices=names, help="one of them")
    parser.add_argument(
        "--sbom", type=Path, default=FOLDER, help="folder for the bills of materials"
    )
    arguments = parser.parse_args()
    try:
        options = BuildOptions.from_environment(os.environ, torch=arguments.torch)
        require(arguments.backend)
        _show_progress()
        for source in SOURCES:
            if arguments.only in (None, source.name):
                image = containerize(source, options, arguments.backend)
                say(f"bill of materials: {write(source, options, arguments.sbom)}")
                print(f"{image}  {size_of(image, arguments.backend) / 1e6:,.0f} MB")
    except BuildError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
