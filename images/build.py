"""Builds the two Bentos from the checkout: what `make build` runs.

The Bentos lie in BENTOML_HOME under `inference_service` and `logging_service`, with the
project's version, or VERSION, as theirs.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import environment_names
from images.bentos import (
    FINGERPRINT_LABEL,
    ROOT,
    SOURCES,
    BentoSource,
    BuildError,
    BuildOptions,
    Torch,
    bentoml_home,
    fingerprint,
    labels,
)


def build(source: BentoSource, options: BuildOptions) -> str:
    """Build a Bento, in place of one with the same tag, and return its tag.

    Raises BuildError where BentoML refuses.
    """
    import bentoml

    bentoml_home()
    tag = options.tag(source)
    say(f"building {tag}")
    started = time.monotonic()
    if _find(tag) is not None:
        bentoml.bentos.delete(tag)
    command = [sys.executable, "-m", "bentoml", "build", str(ROOT)]
    command += ["--bentofile", str(source.bentofile), "--output", "tag"]
    command += ["--version", tag.partition(":")[2]]
    for name, value in labels(source, options).items():
        command += ["--label", f"{name}={value}"]
    finished = subprocess.run(  # noqa: S603 - this interpreter, no shell
        command, cwd=ROOT, env=_environment(options), stdout=subprocess.PIPE, text=True, check=False
    )
    bento = _find(tag)
    if finished.returncode or bento is None:
        sys.stderr.write(finished.stdout)
        raise BuildError(f"{tag} was not built; the lines above say why")
    _make_readable(Path(bento.path))
    say(f"built {tag} in {time.monotonic() - started:.0f} s")
    return tag


def ensure(source: BentoSource, options: BuildOptions) -> str:
    """Return the tag of a Bento of the checkout as it stands, building it where there is none."""
    bentoml_home()
    tag = options.tag(source)
    bento = _find(tag)
    built_from = bento.info.labels.get(FINGERPRINT_LABEL) if bento is not None else None
    if built_from == fingerprint(source, options):
        say(f"{tag} is built and up to date")
        return tag
    return build(source, options)


def _find(tag: str) -> Any:
    """Return the Bento with exactly this tag, None where there is none."""
    import bentoml
    from bentoml.exceptions import NotFound

    try:
        bento = bentoml.bentos.get(tag)
    except NotFound:
        return None
    # BentoML takes the beginning of a version for the version.
    return bento if str(bento.tag) == tag else None


def _environment(options: BuildOptions) -> dict[str, str]:
    """Return the builder's environment without the services' settings.

    A Bento holds what its service is configured to when it is built.
    """
    ours = environment_names(InferenceSettings) | environment_names(LoggingSettings)
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"BENTOML_DO_NOT_TRACK": "True"} | options.environment()


def _make_readable(bento: Path) -> None:
    """Let every user of the image read the service, whatever the builder's umask."""
    for path in (bento, *bento.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def torch_default() -> Torch:
    """Return which torch the environment's TORCH asks for."""
    return "cuda" if os.environ.get("TORCH") == "cuda" else "cpu"


def main() -> int:
    """Build both; print their tags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--torch", choices=("cpu", "cuda"), default=torch_default())
    arguments = parser.parse_args()
    try:
        options = BuildOptions.from_environment(os.environ, torch=arguments.torch)
        for tag in [build(source, options) for source in SOURCES]:
            print(tag)
    except BuildError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
