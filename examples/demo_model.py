"""Makes sure there is a model to serve: draws images, trains and registers where there is none."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bentos.inference.model.registry import Registry, RegistryUnavailable
from examples.stack import DATA, inference_settings
from examples.steel_images import write_images
from local.process import ROOT, StepError

IMAGES_PER_CLASS = 200
IMAGES = DATA / "images"


def demo_images() -> list[Path]:
    """Return the image files of the demo, drawing them where they are missing."""
    files = sorted(IMAGES.glob("*/*.png"))
    return files or sorted(write_images(IMAGES, per_class=IMAGES_PER_CLASS, seed=0))


def ensure_model(report: Callable[[str], None]) -> str:
    """Return the version that will be served, training one where the registry has none.

    Only the embedded registry is trained into; raises StepError where another one has no
    model, or where training fails.
    """
    settings = inference_settings()
    registry = Registry(
        tracking_uri=settings.mlflow_tracking_uri,
        name=settings.model_name,
        stage=settings.model_stage,
    )
    wanted = f"{settings.model_name}@{settings.model_stage}"
    try:
        found = registry.resolve().identity
    except RegistryUnavailable as error:
        where = settings.mlflow_tracking_uri
        raise StepError(f"MLflow at {where} gives no answer: {error}") from error
    if found is not None:
        report(f"serving {wanted}, version {found.version}, from {settings.mlflow_tracking_uri}")
        return found.version
    if not settings.mlflow_tracking_uri.startswith("sqlite:"):
        where = settings.mlflow_tracking_uri
        raise StepError(f"{where} has no {wanted}; register it there, or train one")
    report(f"no model {wanted} yet: drawing images and training one, half a minute or so")
    files = demo_images()
    report(f"{len(files)} images in {IMAGES.relative_to(ROOT)}")
    command = [sys.executable, "-m", "examples.train", "--data", str(IMAGES)]
    command += ["--name", settings.model_name, "--alias", settings.model_stage]
    command += ["--tracking-uri", settings.mlflow_tracking_uri]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise StepError("training failed; the lines above say why")
    found = registry.resolve().identity
    if found is None:
        raise StepError(f"training ended and the registry still has no {wanted}")
    return found.version
