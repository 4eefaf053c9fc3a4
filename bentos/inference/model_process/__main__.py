"""The model process: `python -m bentos.inference.model_process DESCRIPTOR PARENT`.

A worker starts it with its end of a stream and its own process id, and sends the settings first.
It ends when the worker closes the stream, or dies.
"""

import ctypes
import logging
import os
import signal
import socket
import sys

from bentos.inference.model import Labels, LoadedModel, ModelIdentity
from bentos.inference.model_process.connection import Connection
from bentos.inference.model_process.loader import ModelLoader
from bentos.inference.model_process.loading import load
from bentos.inference.model_process.registry import Registry
from bentos.inference.model_process.server import ModelServer
from bentos.inference.model_process.watch import RegistryWatch
from bentos.inference.settings import InferenceSettings, ModelProcessSettings
from bentos.process.logs import configure_logging

_PR_SET_PDEATHSIG = 1
# Of two that want a core, the worker comes first: it is the one that answers probes.
_NICENESS = 5


def main() -> None:
    """Serve the model until the worker goes."""
    descriptor, parent = (int(argument) for argument in sys.argv[1:])
    _die_with(parent)
    # The worker decides when to stop, after what is in flight; a terminal's Ctrl-C goes to all.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    connection = Connection(socket.socket(fileno=descriptor))
    told = connection.receive_settings()
    if not told:
        return
    given = ModelProcessSettings.model_validate_json(told)
    configure_logging(
        level=given.settings.log_level,
        form=given.settings.log_format,
        service=given.service,
        worker=given.worker,
    )
    serve(connection, given.settings)


def serve(connection: Connection, settings: InferenceSettings) -> None:
    """Follow the registry, load what it points to and answer inputs until the stream ends."""
    registry = Registry(
        tracking_uri=settings.mlflow_tracking_uri,
        name=settings.model_name,
        stage=settings.model_stage,
        timeout_seconds=settings.mlflow_timeout_seconds,
    )

    def load_version(version: str) -> LoadedModel:
        return load(
            registry,
            ModelIdentity(settings.model_name, settings.model_stage, version),
            override=Labels(
                class_names=settings.class_name_list,
                defect_classes=settings.defect_class_list or None,
            ),
            device=settings.device,
            threads=settings.torch_threads,
            max_batch=settings.max_batch_size,
        )

    server = ModelServer(
        connection, max_batch=settings.max_batch_size, max_pixels=settings.max_image_pixels
    )
    loader = ModelLoader(
        load_version, server.install, on_change=lambda change: connection.send([change])
    )
    watch = RegistryWatch(
        registry,
        poll_seconds=settings.model_poll_seconds,
        on_check=lambda check: connection.send([check]),
        on_version=loader.want,
    )
    loader.start()
    watch.start()
    server.serve()


def _die_with(parent: int) -> None:
    """End when the worker does, however it ends and whatever is going on here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the worker is gone")


if __name__ == "__main__":
    main()
    logging.shutdown()
    # Threads that wait for the network would keep the process alive.
    os._exit(0)
