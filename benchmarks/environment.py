"""The peers' environment: a virtual environment of its own, made when its pins change."""

import hashlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from local.process import ROOT

DEFAULT = ROOT / ".venv-bench"
_REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_STAMP = "benchmark-requirements.sha256"


class EnvironmentBroken(Exception):  # noqa: N818 - told to the user
    """The peers could not be installed."""


def peers_python(folder: Path, report: Callable[[str], None]) -> Path:
    """Return the Python of the peers' environment, making or renewing it where needed.

    Raises EnvironmentBroken where pip fails.
    """
    python = folder.absolute() / "bin" / "python"
    stamp = folder / _STAMP
    wanted = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    report(f"installing the peers in {folder}: several minutes and gigabytes the first time")
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _share_torch(folder)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "-r", str(_REQUIREMENTS)])
    stamp.write_text(wanted)
    return python


def _share_torch(folder: Path) -> None:
    """Link this environment's CPU build of torch into the new one.

    The package index has the CUDA build, of gigabytes, under the same version.
    """
    if not importlib.metadata.version("torch").endswith("+cpu"):
        return
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise EnvironmentBroken("torch is not installed here")
    packages = Path(spec.origin).parents[1]
    target = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    names = ("torch", "torchgen", "functorch", "torch-*.dist-info")
    for source in (found for name in names for found in packages.glob(name)):
        if source.is_dir():
            (target / source.name).symlink_to(source)


def versions(python: Path, names: list[str]) -> dict[str, str]:
    """Return the installed versions of some distributions."""
    code = (
        "import importlib.metadata as m, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print(name, m.version(name))\n"
    )
    done = subprocess.run(
        [str(python), "-c", code, *names], capture_output=True, text=True, check=True
    )
    return dict(line.split() for line in done.stdout.splitlines())


def _run(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        raise EnvironmentBroken(f"failed: {' '.join(command)}")
