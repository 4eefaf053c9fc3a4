"""Renders the overlays by kubectl's built-in kustomize."""

import shutil
import subprocess
from pathlib import Path

KUBERNETES_DIRECTORY = Path(__file__).parent
OVERLAYS = KUBERNETES_DIRECTORY / "overlays"


class RenderError(Exception):
    """kubectl is missing or refused the overlay; the message says which and why."""


def kubectl() -> str:
    """Return the path of kubectl; RenderError where there is none."""
    found = shutil.which("kubectl")
    if found is None:
        raise RenderError("kubectl is not installed; its built-in kustomize renders the overlays")
    return found


def overlay_names() -> list[str]:
    """Return the overlays that can be deployed."""
    return sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))


def render(directory: Path) -> str:
    """Return what a kustomization renders to, as YAML documents.

    Raises RenderError with kustomize's own message where it does not render.
    """
    finished = subprocess.run(  # noqa: S603 - kubectl by its full path, no shell
        [kubectl(), "kustomize", str(directory)], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RenderError(f"{directory} does not render: {finished.stderr.strip()}")
    return finished.stdout


def render_overlay(name: str) -> str:
    """Return what an overlay renders to; RenderError names the others where there is none."""
    if name not in overlay_names():
        raise RenderError(f"no overlay '{name}'; there are {', '.join(overlay_names())}")
    return render(OVERLAYS / name)
