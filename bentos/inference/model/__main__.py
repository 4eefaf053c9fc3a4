"""The model process: `python -m bentos.inference.model PARENT STREAM PROGRESS`.

A worker starts it with its own process id and the descriptors of a stream and of shared memory,
and with settings in its environment. It ends when the worker closes the stream, or dies.
"""

import logging
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from bentos.inference.channel import SETTINGS_VARIABLE, Beat, Connection, Progress
from bentos.inference.model.archive import pickle_allowed
from bentos.inference.settings import InferenceSettings, ModelProcessSettings
from bentos.process.logs import configure_logging, event, get_logger
from bentos.process.parent import end_with_parent

_FIRST_TO_BE_ENDED = b"1000"
_BEAT_SECONDS = 1.0


def main() -> None:
    """Serve the model until the worker goes."""
    parent, stream, progress = (int(argument) for argument in sys.argv[1:])
    end_with_parent(signal.SIGKILL, parent)
    # The worker decides when to stop, after what is in flight; a terminal's Ctrl-C goes to all.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(socket.socket(fileno=stream), Progress(progress))
    given = ModelProcessSettings.model_validate_json(os.environ.pop(SETTINGS_VARIABLE))
    # Of two that want a core, the worker comes first: it is the one that answers clients.
    os.nice(given.niceness)
    if given.data_bytes is not None:
        _bound_memory(given.data_bytes)
    configure_logging(
        level=given.settings.log_level,
        form=given.settings.log_format,
        service=given.service,
        worker=given.worker,
    )
    threading.Thread(target=_beat, args=(connection,), name="beat", daemon=True).start()
    serve(connection, given.settings)


def serve(connection: Connection, settings: InferenceSettings) -> None:
    """Follow the registry, load what it points to and answer inputs until the stream ends."""
    if not pickle_allowed():
        leave_out_what_only_other_loaders_need()
    # Not before the first beat: these take seconds to import.
    from bentos.inference.model.answering import ModelServer
    from bentos.inference.model.loader import ModelLoader
    from bentos.inference.model.loading import LoadOptions, load
    from bentos.inference.model.registry import Registry, RegistryWatch

    registry = Registry(
        tracking_uri=settings.mlflow_tracking_uri,
        name=settings.model_name,
        stage=settings.model_stage,
        download_timeout_seconds=settings.model_download_timeout_seconds,
    )
    options = LoadOptions(
        device=settings.device,
        threads=settings.torch_threads,
        max_batch=settings.max_batch_size,
        overrides=settings.metadata_overrides,
        signature_key=settings.model_signature_key,
    )

    server = ModelServer(
        connection,
        max_batch=settings.max_batch_size,
        max_pixels=settings.max_image_pixels,
        on_broken=_end_broken,
    )
    loader = ModelLoader(
        partial(load, registry, options=options),
        server.install,
        on_change=connection.send,
        spread_seconds=settings.model_spread_seconds,
    )
    watch = RegistryWatch(
        registry,
        poll_seconds=settings.model_poll_seconds,
        timeout_seconds=settings.mlflow_timeout_seconds,
        on_check=connection.send,
        on_version=loader.want,
    )
    loader.start()
    watch.start()
    server.serve()


def leave_out_what_only_other_loaders_need() -> None:
    """Keep modules out of memory that only MLflow's and PyTorch's own loaders of models use."""
    # MLflow imports it wherever it is: 40 MiB.
    sys.modules["pandas"] = None  # type: ignore[assignment]
    # PyTorch imports it always, for tensors without content, as tracing and compiling use: 18 MiB.
    _leave_empty("torch._meta_registrations")
    # MLflow's packages for language models, which bring FastAPI: 12 MiB, and half a second.
    _leave_empty("mlflow.genai")
    _leave_empty("mlflow.gateway")


def _leave_empty(name: str) -> None:
    """Let a module be imported without running it; what lies in a package can be imported still."""
    package, _, last = name.partition(".")
    found = find_spec(package)
    folders = found.submodule_search_locations if found is not None else None
    module = ModuleType(name)
    module.__path__ = [f"{folder}/{last}" for folder in folders or ()]
    sys.modules[name] = module


def _bound_memory(size: int) -> None:
    """Let allocations fail beyond `size` bytes, rather than take the memory of the pod.

    See setrlimit(2), RLIMIT_DATA, and proc_pid_oom_score_adj(5).
    """
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(_FIRST_TO_BE_ENDED)


def _beat(connection: Connection) -> None:
    """Show that the process runs, whatever its other threads are busy with."""
    pause = threading.Event()
    try:
        while not pause.wait(_BEAT_SECONDS):
            connection.send(Beat())
    except OSError:  # the worker is gone, and the process about to end
        return


def _end_broken() -> None:
    """End at once: what broke the model, as a GPU's context that died, only goes with it."""
    event(get_logger("model"), logging.CRITICAL, "the model fails on its warm-up input: ending")
    _end(os.EX_SOFTWARE)


def _end(status: int) -> None:
    logging.shutdown()
    # Threads that wait for the network would keep the process alive.
    os._exit(status)


if __name__ == "__main__":
    main()
    _end(os.EX_OK)
