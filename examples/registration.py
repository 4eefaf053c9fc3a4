"""Logs a trained network to MLflow, registers it and points an alias at the new version."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray
from sqlalchemy.exc import SQLAlchemyError

from examples.command import CommandError
from examples.network import SurfaceNetwork

_SQLITE = "sqlite:///"


class RegistrationError(CommandError):
    """The registry cannot take the model; the message tells a user why."""


@dataclass(frozen=True)
class TrainingRecord:
    """What MLflow is told about a training run.

    `losses` holds the mean training loss of each epoch; `class_names` is in the order of the
    network's outputs; `bit_depth` is that of the camera behind 16-bit files; `profile` says what
    the pictures are like.
    """

    class_names: Sequence[str]
    defect_classes: Sequence[str]
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    losses: Sequence[float]
    bit_depth: int | None = None
    profile: Mapping[str, object] = field(default_factory=dict)


def check_names(model_name: str, alias: str) -> None:
    """Raise RegistrationError for a model name or alias that MLflow would refuse after training."""
    if not model_name.strip() or re.search(r"[/:]", model_name):
        raise RegistrationError(
            f"'{model_name}' cannot be a model's name: it must not be empty or contain '/' or ':'"
        )
    reserved = alias.lower() == "latest" or re.fullmatch(r"v\d+", alias, re.IGNORECASE)
    if reserved or not re.fullmatch(r"[\w-]+", alias, re.ASCII):
        raise RegistrationError(
            f"'{alias}' cannot be an alias: letters, digits, '_' and '-' only, "
            "and neither 'latest' nor 'v1', 'v2' and so on"
        )


def open_experiment(tracking_uri: str, experiment: str) -> str:
    """Return the id of an experiment; it and a SQLite store are created where there is none.

    A SQLite store keeps its artifacts in `artifacts/` beside the database file; a server decides
    for itself. Raises RegistrationError where the store cannot be used.
    """
    try:
        artifacts = _artifact_location(tracking_uri)
        mlflow.set_tracking_uri(tracking_uri)
        # Whatever registry the environment names: the services look for the model in this one.
        mlflow.set_registry_uri(tracking_uri)
        client = MlflowClient()
        found = client.get_experiment_by_name(experiment)
        if found is None:
            experiment_id = client.create_experiment(experiment, artifact_location=artifacts)
        else:
            experiment_id = found.experiment_id
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise RegistrationError(
            f"the tracking store '{tracking_uri}' cannot be used: {_first_line(error)}"
        ) from error
    return str(experiment_id)


def register(
    experiment_id: str,
    network: SurfaceNetwork,
    record: TrainingRecord,
    *,
    example: NDArray[np.float32],
    model_name: str,
    alias: str,
) -> str:
    """Log the network as a graph that loads without pickle, register it and return its version.

    `example` is float32 [N, C, H, W] of at least two images: a graph traced with one image would
    take one image only. Raises RegistrationError where MLflow refuses any step.
    """
    if len(example) < 2:
        raise ValueError(f"the example must have at least two images, not {len(example)}")
    batch = TensorSpec(np.dtype(np.float32), (-1, *example.shape[1:]))
    answers = TensorSpec(np.dtype(np.float32), (-1, len(record.class_names)))
    metadata = {
        "class_names": list(record.class_names),
        "defect_classes": list(record.defect_classes),
        "output": "logits",
        **({"bit_depth": record.bit_depth} if record.bit_depth else {}),
        **({"profile": dict(record.profile)} if record.profile else {}),
    }
    try:
        with mlflow.start_run(experiment_id=experiment_id):
            mlflow.log_params(dict(record.params))
            for epoch, loss in enumerate(record.losses, start=1):
                mlflow.log_metric("training_loss", loss, step=epoch)
            mlflow.log_metrics(dict(record.metrics))
            with _without_chatter():
                logged = mlflow.pytorch.log_model(
                    network.cpu().eval(),
                    name="model",
                    registered_model_name=model_name,
                    signature=ModelSignature(Schema([batch]), Schema([answers])),
                    input_example=example,
                    metadata=metadata,
                    pip_requirements=_requirements(),
                    serialization_format="pt2",
                )
        version = str(logged.registered_model_version)
        MlflowClient().set_registered_model_alias(model_name, alias, version)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise RegistrationError(
            f"the model could not be registered as '{model_name}': {_first_line(error)}"
        ) from error
    return version


def _artifact_location(tracking_uri: str) -> str | None:
    """Return where a SQLite store's artifacts go, making its folder, or None for other stores."""
    if not tracking_uri.startswith(_SQLITE):
        return None
    database = Path(tracking_uri.removeprefix(_SQLITE).partition("?")[0]).resolve()
    database.parent.mkdir(parents=True, exist_ok=True)
    return (database.parent / "artifacts").as_uri()


def _requirements() -> list[str]:
    # Naming them spares MLflow a second process that loads the model to find them out. The build
    # of torch, such as "+cpu", is no part of a version that a package index knows.
    torch_version = str(torch.__version__).partition("+")[0]
    return [f"mlflow=={mlflow.__version__}", f"torch=={torch_version}", f"numpy=={np.__version__}"]


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Drop what MLflow prints about its own steps; failures still raise."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
