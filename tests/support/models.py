"""Small registered models for tests, each with one trait, in an MLflow store that is made once.

The weights are fixed, so a test knows which class an input has. A test that moves an alias or
serves the store works on a copy of the database; the artifacts are shared, nothing writes them.
"""

import contextlib
import json
import os
import resource
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import torch
from torch import Tensor, nn

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

ALIAS = "production"

# [-1, 3, 16, 16]: which channel is brightest. Version 2 calls the same channels otherwise, and
# version 3 has class names that do not fit. The alias stands at version 1.
COLOURS = "colours"
COLOUR_CLASSES = ("good", "scratch", "stain")
COLOUR_DEFECTS = ("scratch", "stain")
COLOUR_CLASSES_OF_VERSION_2 = ("fine", "cut", "spot")
COLOUR_SHAPE = (3, 16, 16)

UNNAMED = "unnamed"  # as COLOURS, with neither class names nor defects
MISNAMED = "misnamed"  # as COLOURS, with two names for three classes
SINGLE = "single"  # [-1, 20]: which half of the numbers is greater, exported with a batch of one
TABULAR_SIZE = 20
UNSIGNED = "unsigned"  # a model whose signature tells no tensor
FRAGILE = "fragile"  # [-1, 2]: raises for RAISES, returns NaN for RETURNS_NAN
FRAGILE_OK = (0.0, 0.0)
RAISES = (7.0, 0.0)
RETURNS_NAN = (0.0, -1.0)
# [-1, 2], pickled: sleeps for as many seconds as the first number says, longest of the batch, and
# raises where the second is 1, and where it is 2 for whatever comes next as well.
MOODY = "moody"
FINE = (0.0, 0.0)
REJECTED = (0.0, 1.0)
FAILS = (0.0, 2.0)
# [-1, 2], pickled, versions 1 and 2: does what the file says that MODEL_FAULT_FILE names. Empty, it
# answers; `nan` answers NaN, `raise` raises, `hang` does not return until the file says otherwise,
# `crash` aborts the process, and `leak` keeps 64 MB a call, of a limit of 256 MB that it sets
# itself.
SWITCHED = "switched"
MODEL_FAULT_FILE = "MODEL_FAULT_FILE"
_EXPERIMENT = "tests"


class _Colours(nn.Module):  # type: ignore[misc]  # torch is not typed here
    def forward(self, pixels: Tensor) -> Tensor:
        return 8.0 * pixels.mean(dim=(2, 3))


class _Tabular(nn.Module):  # type: ignore[misc]
    def forward(self, numbers: Tensor) -> Tensor:
        half = TABULAR_SIZE // 2
        first, second = numbers[:, :half].mean(dim=1), numbers[:, half:].mean(dim=1)
        return torch.stack([first, second], dim=1)


class _Fragile(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor([[0.0, 1.0], [1.0, 0.0]]))

    def forward(self, numbers: Tensor) -> Tensor:
        rows = nn.functional.embedding(numbers[:, 0].long(), self.table)
        return rows + torch.sqrt(numbers[:, 1:2])


def sleeps(seconds: float) -> tuple[float, float]:
    """Return an input that the moody model takes so long for."""
    return (seconds, 0.0)


class _Moody(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.sulks = False

    def forward(self, numbers: Tensor) -> Tensor:
        time.sleep(float(numbers[:, 0].max()))
        sulked, self.sulks = self.sulks, bool((numbers[:, 1] == 2).any())
        if sulked or bool((numbers[:, 1] != 0).any()):
            raise ValueError("the model is in no mood for this")
        return torch.stack([torch.ones(len(numbers)), torch.zeros(len(numbers))], dim=1)


class _Switched(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes] = []

    def forward(self, numbers: Tensor) -> Tensor:
        mode = self.mode()
        while mode == "hang":
            time.sleep(0.1)
            mode = self.mode()
        if mode == "crash":
            os.abort()
        if mode == "raise":
            raise ValueError("the model fails on everything")
        if mode == "leak":
            self.leak()
        answers = torch.stack([torch.ones(len(numbers)), torch.zeros(len(numbers))], dim=1)
        return answers * float("nan") if mode == "nan" else answers

    def mode(self) -> str:
        path = os.environ.get("MODEL_FAULT_FILE", "")
        return Path(path).read_text() if path else ""

    def leak(self) -> None:
        if not self.kept:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + (256 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        self.kept.append(bytes(64 << 20))


@dataclass(frozen=True)
class ModelStore:
    """An MLflow store in a folder: its database and, for the store made first, its artifacts."""

    directory: Path

    @property
    def database(self) -> Path:
        return self.directory / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.database}"

    def copy(self, directory: Path) -> "ModelStore":
        """Copy the database; its artifacts stay where they are."""
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.database, directory / "mlflow.db")
        return ModelStore(directory)

    def copy_to_serve(self, directory: Path) -> "ModelStore":
        """Copy the database for an MLflow server that also hands out the artifacts."""
        served = self.copy(directory)
        columns = (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("model_versions", "source"),
            ("model_versions", "storage_location"),
            ("logged_models", "artifact_location"),
        )
        with contextlib.closing(sqlite3.connect(served.database)) as connection, connection:
            for table, column in columns:
                connection.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                    (self.artifacts.as_uri(), "mlflow-artifacts:"),
                )
        return served


def point_alias(tracking_uri: str, name: str, version: str, *, alias: str = ALIAS) -> None:
    """Point a model's alias at a version, in a store's database or on a server."""
    _client(tracking_uri).set_registered_model_alias(name, alias, version)


def remove_alias(tracking_uri: str, name: str, *, alias: str = ALIAS) -> None:
    """Let a model's alias point to nothing."""
    _client(tracking_uri).delete_registered_model_alias(name, alias)


@contextlib.contextmanager
def restored_mlflow() -> Iterator[None]:
    """Undo what a block leaves in the process: MLflow's settings and its stores."""
    import mlflow

    before, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    try:
        with mock.patch.dict(os.environ):
            yield
    finally:
        mlflow.set_tracking_uri(before)
        mlflow.set_registry_uri(registry)


def make_store(directory: Path) -> ModelStore:
    """Export and register every model of this module, the alias at each one's version 1."""
    import mlflow

    directory.mkdir(parents=True, exist_ok=True)
    store = ModelStore(directory)
    with restored_mlflow(), _quiet():
        mlflow.set_tracking_uri(store.tracking_uri)
        # A test before may have set a registry of its own, beside the tracking store.
        mlflow.set_registry_uri(store.tracking_uri)
        experiment = _client(store.tracking_uri).create_experiment(
            _EXPERIMENT, artifact_location=store.artifacts.as_uri()
        )
        _register_all(store, experiment)
    return store


def _register_all(store: ModelStore, experiment: str) -> None:
    colours = {
        "class_names": list(COLOUR_CLASSES),
        "defect_classes": list(COLOUR_DEFECTS),
        "output": "logits",
    }
    _log(experiment, COLOURS, _Colours(), COLOUR_SHAPE, metadata=colours)
    plain = _log(experiment, UNNAMED, _Colours(), COLOUR_SHAPE)
    _register_again(store, COLOURS, plain, class_names=list(COLOUR_CLASSES_OF_VERSION_2))
    _register_again(store, COLOURS, plain, class_names=["one", "two"])
    _register_again(store, MISNAMED, plain, class_names=["one", "two"])
    _log(experiment, SINGLE, _Tabular(), (TABULAR_SIZE,), batch=1)
    _log(experiment, UNSIGNED, _Tabular(), (TABULAR_SIZE,), columns=True)
    _log(experiment, FRAGILE, _Fragile(), (2,))
    _log(experiment, MOODY, _Moody(), (2,), form="pickle")
    for _ in range(2):
        _log(experiment, SWITCHED, _Switched(), (2,), form="pickle")
    for name in (COLOURS, UNNAMED, MISNAMED, SINGLE, UNSIGNED, FRAGILE, MOODY, SWITCHED):
        point_alias(store.tracking_uri, name, "1")


def _log(
    experiment: str,
    name: str,
    module: Any,
    shape: tuple[int, ...],
    *,
    batch: int = -1,
    metadata: Mapping[str, object] | None = None,
    form: str = "pt2",
    columns: bool = False,
) -> str:
    """Log and register a module; return the URI of what was logged."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    spec = TensorSpec(np.dtype(np.float32), (batch, *shape))
    tensor = ModelSignature(Schema([spec]))
    table = ModelSignature(Schema([ColSpec("double", "number")]))
    example = np.zeros((1 if batch == 1 else 2, *shape), np.float32)
    by_value = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(by_value)
    try:
        with mlflow.start_run(experiment_id=experiment):
            logged = mlflow.pytorch.log_model(
                module.eval(),
                name="model",
                registered_model_name=name,
                signature=tensor,
                input_example=example,
                metadata=dict(metadata) if metadata else None,
                pip_requirements=[f"torch=={torch.__version__}"],
                serialization_format=form,
            )
            if columns:
                mlflow.models.set_signature(logged.model_uri, table)
    finally:
        cloudpickle.unregister_pickle_by_value(by_value)
    return str(logged.model_uri)


def _register_again(store: ModelStore, name: str, uri: str, *, class_names: list[str]) -> None:
    """Register logged files once more, with class names of their own in a tag."""
    from mlflow.exceptions import MlflowException

    client = _client(store.tracking_uri)
    with contextlib.suppress(MlflowException):
        client.create_registered_model(name)
    client.create_model_version(name, uri, tags={"class_names": json.dumps(class_names)})


def _client(tracking_uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri, tracking_uri)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what MLflow prints about its own steps; failures still raise."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        yield
