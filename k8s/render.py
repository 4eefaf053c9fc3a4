"""Writes k8s/deployment-production.yaml from its overlay, or checks that the two agree.

`python -m k8s.render` after every change under k8s/; `python -m k8s.render --check` ends with
status 1 where that was forgotten.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

KUBERNETES_DIRECTORY = Path(__file__).parent
OVERLAYS = KUBERNETES_DIRECTORY / "overlays"
PRODUCTION = "production"
PRODUCTION_MANIFEST = KUBERNETES_DIRECTORY / "deployment-production.yaml"

_HEADER = """\
# Made from k8s/overlays/production by `python -m k8s.render`: change the overlay, not this file.
# Before the first `kubectl apply -f`, make the Secret that it refers to; docs/operations.md says
# how.
"""


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

    Raises RenderError with kustomize's own words where it does not render.
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


def production_manifest() -> str:
    """Return what k8s/deployment-production.yaml has to contain."""
    return _HEADER + render_overlay(PRODUCTION)


def main() -> int:
    """Write or check the rendered manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where they differ")
    arguments = parser.parse_args()
    try:
        manifest = production_manifest()
    except RenderError as error:
        print(error, file=sys.stderr)
        return 2
    if not arguments.check:
        PRODUCTION_MANIFEST.write_text(manifest)
        print(f"wrote {PRODUCTION_MANIFEST.name}")
        return 0
    written = PRODUCTION_MANIFEST.read_text() if PRODUCTION_MANIFEST.exists() else ""
    if written == manifest:
        return 0
    print(
        f"{PRODUCTION_MANIFEST.name} is not what its overlay renders to: run python -m k8s.render",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
