"""What the commands on registered models share: options, one line for an error, and an answer."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

import httpx
import numpy as np
from numpy.typing import NDArray

from bentos.edge.http import ServiceError
from bentos.inference.images import open_image, read_input
from bentos.inference.model.loading import LoadOptions, load
from bentos.inference.model.registry import Registry, RegistryUnavailable
from bentos.inference.model.spec import UnusableModel
from bentos.inference.model.warm_up import LoadedModel

# The model that the inference service serves where it is told no other.
_NAME: Final = "steel-defects"
_TRACKING_URI: Final = "sqlite:///.data/mlflow.db"
MAX_PIXELS: Final = 200_000_000
_BATCH: Final = 64
# MLflow reads these when it is imported or used. They keep its banners, progress bars, notes on
# its internals and usage data out of a newcomer's way, and a missing server from taking minutes.
_MLFLOW_SETTINGS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class CommandError(Exception):
    """A command cannot do what was asked; the message tells a user why, in one line."""


class UsageError(CommandError):
    """An option does not fit the data, or the model; the message says which."""


def add_model_options(
    parser: argparse.ArgumentParser, name: str = "--model", *, alias: str
) -> None:
    """Add the options that say which model is meant; `alias` is the help text of its alias."""
    add = parser.add_argument
    add(
        name,
        default=os.environ.get("MODEL_NAME") or _NAME,
        metavar="NAME",
        help=f"name of the registered model (MODEL_NAME, else {_NAME})",
    )
    add("--alias", default="production", help=f"{alias} (production)")
    add(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI") or _TRACKING_URI,
        metavar="URI",
        help=f"MLflow store (MLFLOW_TRACKING_URI, else {_TRACKING_URI})",
    )


def run(
    work: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
) -> int:
    """Do what the command line asks, print an error as one line, and return the exit status."""
    for name, value in _MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        work(parser.parse_args(arguments))
    except (
        *(CommandError, RegistryUnavailable, UnusableModel, OSError, httpx.HTTPError),
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def say(line: str) -> None:
    """Print a line at once, also where the output is a pipe, as under make."""
    print(line, flush=True)


def load_version(options: argparse.Namespace, alias: str) -> tuple[Registry, LoadedModel]:
    """Return the version of the model that an alias stands for, and its registry.

    Raises UsageError where there is none.
    """
    registry = Registry(tracking_uri=options.tracking_uri, name=options.model, stage=alias)
    found = registry.resolve()
    if found.identity is None:
        raise UsageError(found.missing)
    return registry, load(registry, found.identity, LoadOptions())


def ask(model: LoadedModel, pictures: Sequence[bytes]) -> NDArray[np.float32]:
    """Return what a model says of image files, [N, classes], read as the service reads them.

    Raises UsageError for a picture that cannot be read, and for a model that sees none.
    """
    if model.spec.picture is None:
        raise UsageError(f"version {model.identity.version} of the model sees no pictures")
    size = min(_BATCH, model.max_batch)
    answers: list[NDArray[np.float32]] = []
    try:
        for first in range(0, len(pictures), size):
            files = [
                open_image(one, max_pixels=MAX_PIXELS) for one in pictures[first : first + size]
            ]
            inputs = [read_input(file, model.spec) for file in files]
            answers.append(model.probabilities(np.stack(inputs)))
    except ServiceError as error:
        raise UsageError(f"a picture cannot be read: {error.message}") from error
    return np.concatenate(answers)
