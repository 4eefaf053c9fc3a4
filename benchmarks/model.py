"""The model that all of them serve, its inputs, and what it says of them."""

import io
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bentos.inference.settings import InferenceSettings
from bentos.process.settings import load_settings
from examples.demo_model import ensure_model
from examples.steel_images import class_names, draw

SHAPE = (3, 32, 32)
_SQLITE = "sqlite:///"
# A PNG of noise has about as many bytes as pixels have channels: 408 x 408 gives 500 kB.
_LARGE_SIDE = 408


class ModelMismatch(Exception):  # noqa: N818 - told to the user, not raised by a program's fault
    """The registered model is not the one that the benchmark is made for."""


@dataclass(frozen=True)
class ServedModel:
    """A copy of a registry that only the benchmark writes, and the model's files beside it."""

    tracking_uri: str
    name: str
    alias: str
    version: str
    files: Path


@dataclass(frozen=True)
class Picture:
    """One input in every form: pixels float32 [3, 32, 32] in 0..1 and the file they come from."""

    pixels: NDArray[np.float32]
    png: bytes


def prepare_model(scratch: Path, report: Callable[[str], None]) -> ServedModel:
    """Copy the demo model's registry, training it where there is none, and fetch its files.

    Raises ModelMismatch for a model of another input, StepError where none can be had.
    """
    import mlflow
    from mlflow import MlflowClient

    version = ensure_model(report)
    settings = load_settings(InferenceSettings)
    source = settings.mlflow_tracking_uri
    if not source.startswith(_SQLITE):
        raise ModelMismatch(
            f"the benchmark moves an alias, so it copies a SQLite registry, not {source}"
        )
    database = scratch / "registry.db"
    with (
        closing(sqlite3.connect(Path(source.removeprefix(_SQLITE)))) as original,
        closing(sqlite3.connect(database)) as copy,
    ):
        original.backup(copy)
    tracking_uri = f"{_SQLITE}{database}"
    client = MlflowClient(tracking_uri, tracking_uri)
    where = client.get_model_version_download_uri(settings.model_name, version)
    files = scratch / "model"
    shutil.rmtree(files, ignore_errors=True)
    fetched = mlflow.artifacts.download_artifacts(artifact_uri=where, dst_path=str(files))
    signature = mlflow.models.get_model_info(fetched).signature
    shape = tuple(signature.inputs.inputs[0].shape[1:]) if signature else ()
    if shape != SHAPE:
        raise ModelMismatch(
            f"{settings.model_name} takes {shape or 'no tensor'}; the bodies here are for {SHAPE}"
        )
    return ServedModel(
        tracking_uri=tracking_uri,
        name=settings.model_name,
        alias=settings.model_stage,
        version=version,
        files=Path(fetched),
    )


def register_again(model: ServedModel) -> str:
    """Register the same files as one more version and return it, for loads under way."""
    from mlflow import MlflowClient

    client = MlflowClient(model.tracking_uri, model.tracking_uri)
    source = client.get_model_version(model.name, model.version).source
    return str(client.create_model_version(model.name, source).version)


def point_alias(model: ServedModel, version: str) -> None:
    """Let the alias that is served point to a version."""
    from mlflow import MlflowClient

    client = MlflowClient(model.tracking_uri, model.tracking_uri)
    client.set_registered_model_alias(model.name, model.alias, version)


def pictures() -> list[Picture]:
    """Return one picture of every kind of surface."""
    found = []
    for number, kind in enumerate(class_names()):
        image = draw(kind, np.random.default_rng(1000 + number))
        file = io.BytesIO()
        image.save(file, "PNG")
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        found.append(Picture(np.ascontiguousarray(pixels), file.getvalue()))
    return found


def large_png() -> bytes:
    """Return a PNG file of 500 kB."""
    noise = np.random.default_rng(0).integers(0, 256, (_LARGE_SIDE, _LARGE_SIDE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise, "RGB").save(file, "PNG")
    return file.getvalue()


def reference(model: ServedModel, inputs: Sequence[Picture]) -> list[tuple[int, float]]:
    """Return class and confidence of each picture, told by the bare model."""
    import mlflow
    import torch

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    network: Any = mlflow.pytorch.load_model(str(model.files))
    with torch.inference_mode():
        rows = torch.from_numpy(np.stack([picture.pixels for picture in inputs]))
        probabilities = network(rows).softmax(dim=1)
    return [(int(row.argmax()), float(row.max())) for row in probabilities]
