"""Every fault, what it is expected to be told as, and what it must not take with it."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tests.chaos.world import filled
from tests.faults import injectors
from tests.faults.world import TOKENS, FaultWorld
from tests.support.logging_store import locked_by_another_process
from tests.support.models import ALIAS, SWITCHED
from tests.support.proxy import Mode, Proxy

Service = Literal["inference", "logging"]
# A fault lasts as long as this block.
Injected = Callable[[FaultWorld], AbstractContextManager[None]]

_DISK_CALLS = "pwrite64,write,fsync,fdatasync,ftruncate,openat"
_SYNC_CALLS = "fsync,fdatasync"
_SUFFIXES = ("", "-wal", "-shm", "-journal")
_DAY = 86_400


@dataclass(frozen=True)
class Fault:
    """A fault of one service or of what it depends on.

    `reasons` are those that `/ready` of the service may give first; without any the pod has to
    stay ready. One of `alerts` has to fire, where there are any. `unhealthy` tells whether
    `/health` may be 500, `restarts` what may be started again. `answers` tells whether every
    prediction has to be answered meanwhile; `brief`, that the service mends it within a second,
    which probes may miss and an alert has to tell. `short` faults are in the run of `make test`.
    """

    name: str
    inject: Injected
    reasons: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    _: KW_ONLY
    service: Service
    unhealthy: bool = False
    restarts: frozenset[str] = frozenset()
    answers: bool = False
    clocks: bool = False
    brief: bool = False
    short: bool = False


@contextmanager
def _between(begin: Callable[[], object], end: Callable[[], object]) -> Iterator[None]:
    begin()
    try:
        yield
    finally:
        end()


def _mlflow_away(world: FaultWorld) -> AbstractContextManager[None]:
    return _between(world.mlflow.stop, world.mlflow.start)


def _mlflow(mode: Mode) -> Injected:
    return lambda world: _proxied(world.mlflow_proxy, mode)


def _network(mode: Mode) -> Injected:
    return lambda world: _proxied(world.proxy, mode)


def _proxied(proxy: Proxy, mode: Mode) -> AbstractContextManager[None]:
    return _between(lambda: proxy.become(mode), lambda: proxy.become("pass"))


def _alias_gone(world: FaultWorld) -> AbstractContextManager[None]:
    registry = world.registry
    return _between(
        lambda: registry.delete_registered_model_alias(SWITCHED, ALIAS),
        lambda: registry.set_registered_model_alias(SWITCHED, ALIAS, "1"),
    )


def _next_version(world: FaultWorld) -> AbstractContextManager[None]:
    def point(version: str) -> None:
        world.registry.set_registered_model_alias(SWITCHED, ALIAS, version)

    return _between(lambda: point("2"), lambda: point("1"))


@contextmanager
def _next_version_deleted(world: FaultWorld) -> Iterator[None]:
    with injectors.moved_away(world.model_files("2")), _next_version(world):
        yield


@contextmanager
def _next_version_corrupt(world: FaultWorld) -> Iterator[None]:
    (path,) = world.model_files("2").rglob("*.pth")
    content = path.read_bytes()
    damaged = injectors.overwritten(
        path, b"overwritten by mistake", repair=lambda: injectors.replace(path, content)
    )
    with damaged, _next_version(world):
        yield


@contextmanager
def _files_deleted_and_killed(world: FaultWorld) -> Iterator[None]:
    with injectors.moved_away(world.model_files("1")):
        world.kill_model_process()
        yield


def _model(mode: str) -> Injected:
    return lambda world: injectors.written(world.model_mode, mode)


@contextmanager
def _model_process_killed(world: FaultWorld) -> Iterator[None]:
    world.kill_model_process()
    yield


def _model_process_stopped(world: FaultWorld) -> AbstractContextManager[None]:
    return injectors.suspended([world.model_process()])


def _worker_killed(service: Service) -> Injected:
    @contextmanager
    def inject(world: FaultWorld) -> Iterator[None]:
        world.worker(service).kill()
        yield

    return inject


def _worker_stopped(service: Service) -> Injected:
    return lambda world: injectors.suspended([world.worker(service)])


def _loop_stalled(service: Service) -> Injected:
    """Keep the event loop in a call to the kernel; the other threads go on."""
    return lambda world: injectors.system_calls(
        world.worker(service), "epoll_wait,epoll_pwait,epoll_pwait2", "delay_enter=120000000"
    )


def _no_descriptors(service: Service) -> Injected:
    return lambda world: injectors.no_descriptors(world.worker(service))


def _outbox_disk(effect: str, calls: str = _DISK_CALLS) -> Injected:
    return lambda world: injectors.system_calls(
        world.worker("inference"), calls, effect, paths=_files(world, "inference")
    )


def _database_disk(effect: str, calls: str = _DISK_CALLS) -> Injected:
    return lambda world: injectors.system_calls(
        world.worker("logging"), calls, effect, paths=_files(world, "logging")
    )


def _files(world: FaultWorld, service: Service) -> list[Path]:
    path = world.outbox if service == "inference" else world.database
    return [path.with_name(path.name + suffix) for suffix in _SUFFIXES]


def _deleted(service: Service) -> Injected:
    @contextmanager
    def inject(world: FaultWorld) -> Iterator[None]:
        for path in _files(world, service):
            path.unlink(missing_ok=True)
        yield

    return inject


def _locked(service: Service) -> Injected:
    return lambda world: locked_by_another_process(
        world.outbox if service == "inference" else world.database
    )


@contextmanager
def _database_corrupt(world: FaultWorld) -> Iterator[None]:
    backup = world.directory / "backup.db"
    _back_up(world, backup)
    with injectors.overwritten(
        world.database, b"overwritten by mistake ", repair=lambda: _restore(world, backup)
    ):
        yield


@contextmanager
def _database_replaced(world: FaultWorld) -> Iterator[None]:
    """Put a backup in the database's place, which is what a restore without a stop does."""
    backup = world.directory / "backup.db"
    _back_up(world, backup)
    _restore(world, backup)
    yield


def _back_up(world: FaultWorld, backup: Path) -> None:
    backup.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(world.database)) as source,
        closing(sqlite3.connect(backup)) as target,
    ):
        source.backup(target)


def _restore(world: FaultWorld, backup: Path) -> None:
    new = world.database.with_name("restored.db")
    shutil.copyfile(backup, new)
    new.rename(world.database)


@contextmanager
def _database_disk_full(world: FaultWorld) -> Iterator[None]:
    """Fill the disk, and leave no room in the write-ahead log either."""
    with closing(sqlite3.connect(world.database, timeout=30.0)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with filled(world.database.parent):
        yield


def _logging_away(world: FaultWorld) -> AbstractContextManager[None]:
    return _between(world.logging.kill, world.start_logging)


def _tokens_changed(world: FaultWorld) -> AbstractContextManager[None]:
    return injectors.written(world.tokens, TOKENS[1])


def _clock(seconds: int) -> Injected:
    return lambda world: world.clock_off(seconds)


_MODEL_PROCESS = frozenset({"model process"})
_INFERENCE_WORKER = frozenset({"inference worker", "model process"})
_LOGGING_WORKER = frozenset({"logging worker"})
_STALLED = ("port_not_answering", "event_loop_stalled")
_NO_MODEL = ("model_not_loaded",)
_NO_OUTBOX = ("outbox_not_accessible", "outbox_full")
_NO_DATABASE = ("database_not_accessible", "database_not_initialized")
_DELIVERY_STALLED = ("InferenceLogDeliveryStalled",)

_inference = partial(Fault, service="inference")
# Predictions wait in the outboxes meanwhile.
_logging = partial(Fault, service="logging", answers=True)

FAULTS = (
    _inference(
        "MLflow down",
        _mlflow_away,
        ("mlflow_not_accessible",),
        ("InferenceMlflowUnreachable",),
        answers=True,
    ),
    _inference(
        "MLflow takes connections and answers nothing",
        _mlflow("hang"),
        ("mlflow_not_accessible",),
        ("InferenceMlflowUnreachable",),
        answers=True,
    ),
    _inference(
        "MLflow answers 500",
        _mlflow("error"),
        ("mlflow_not_accessible",),
        ("InferenceMlflowUnreachable",),
        answers=True,
        short=True,
    ),
    _inference("MLflow answers 1.5 s late", _mlflow("delay"), answers=True),
    _inference("the alias of the served version removed", _alias_gone, answers=True),
    _inference(
        "the alias at a version whose files were deleted",
        _next_version_deleted,
        alerts=("InferenceModelLoadFailing", "InferenceModelVersionStale"),
        answers=True,
    ),
    _inference(
        "the alias at a version whose files are corrupt",
        _next_version_corrupt,
        alerts=("InferenceModelLoadFailing", "InferenceModelVersionStale"),
        answers=True,
    ),
    _inference(
        "the served version's files deleted, then `kill -9` of the model process",
        _files_deleted_and_killed,
        _NO_MODEL,
        ("InferenceModelNotLoaded",),
        restarts=_MODEL_PROCESS,
    ),
    _inference(
        "the model answers NaN",
        _model("nan"),
        _NO_MODEL,
        ("InferenceModelNotLoaded",),
        restarts=_MODEL_PROCESS,
    ),
    _inference(
        "the model raises",
        _model("raise"),
        _NO_MODEL,
        ("InferenceModelNotLoaded",),
        restarts=_MODEL_PROCESS,
    ),
    _inference(
        "the model hangs",
        _model("hang"),
        ("model_thread_stuck",),
        ("InferenceHighErrorRate", "InferenceAllRequestsFailing", "InferenceNotReady"),
        unhealthy=True,
    ),
    _inference(
        "the model leaks memory until there is none",
        _model("leak"),
        _NO_MODEL,
        ("InferenceModelProcessDying", "InferenceModelNotLoaded"),
        restarts=_MODEL_PROCESS,
    ),
    _inference(
        "`kill -9` of the model process, as when memory is out",
        _model_process_killed,
        _NO_MODEL,
        restarts=_MODEL_PROCESS,
        short=True,
    ),
    _inference(
        "`kill -STOP` of the model process",
        _model_process_stopped,
        ("model_thread_stuck",),
        ("InferenceHighErrorRate", "InferenceAllRequestsFailing"),
        unhealthy=True,
    ),
    _inference(
        "`kill -9` of the worker",
        _worker_killed("inference"),
        ("worker_missing",),
        restarts=_INFERENCE_WORKER,
    ),
    _inference(
        "`kill -STOP` of the worker",
        _worker_stopped("inference"),
        _STALLED,
        ("InferenceNotReady",),
        unhealthy=True,
    ),
    _inference(
        "the worker's event loop stalled",
        _loop_stalled("inference"),
        _STALLED,
        ("InferenceNotReady",),
        unhealthy=True,
    ),
    _inference(
        "no file descriptors left", _no_descriptors("inference"), _STALLED, ("InferenceNotReady",)
    ),
    _inference(
        "the outbox's disk full",
        lambda world: filled(world.outboxes),
        _NO_OUTBOX,
        ("InferenceNotReady",),
    ),
    _inference(
        "the outbox's disk read-only",
        _outbox_disk("error=EROFS"),
        _NO_OUTBOX,
        ("InferenceNotReady",),
    ),
    _inference(
        "the outbox's disk takes 8 s for each sync",
        _outbox_disk("delay_enter=8000000", _SYNC_CALLS),
        _NO_OUTBOX,
        ("InferenceNotReady",),
    ),
    _inference(
        "the outbox's disk gone: I/O errors",
        _outbox_disk("error=EIO", f"pread64,{_DISK_CALLS}"),
        _NO_OUTBOX,
        ("InferenceNotReady",),
    ),
    _inference(
        "the outbox locked by another process",
        _locked("inference"),
        _NO_OUTBOX,
        ("InferenceNotReady",),
    ),
    _inference("the outbox deleted", _deleted("inference")),
    _logging(
        "the logging service away",
        _logging_away,
        ("no answer",),
        ("LoggingServiceDown",),
        unhealthy=True,
        restarts=frozenset({"logging service", "logging worker"}),
    ),
    _inference("the logging service answers 4 s late", _network("delay"), answers=True),
    _inference(
        "the logging service takes requests and answers nothing",
        _network("hang"),
        alerts=_DELIVERY_STALLED,
        answers=True,
    ),
    _inference(
        "the logging service answers 500", _network("error"), alerts=_DELIVERY_STALLED, answers=True
    ),
    _inference(
        "the logging service refuses the token",
        _tokens_changed,
        alerts=("LoggingRequestsUnauthorized", *_DELIVERY_STALLED),
        answers=True,
        short=True,
    ),
    _logging(
        "`kill -9` of the logging worker",
        _worker_killed("logging"),
        ("worker_missing",),
        restarts=_LOGGING_WORKER,
    ),
    _logging(
        "`kill -STOP` of the logging worker",
        _worker_stopped("logging"),
        _STALLED + _NO_DATABASE,
        ("LoggingNotReady",),
        unhealthy=True,
    ),
    _logging(
        "the logging worker's event loop stalled",
        _loop_stalled("logging"),
        _STALLED + _NO_DATABASE,
        ("LoggingNotReady",),
        unhealthy=True,
    ),
    _logging(
        "no file descriptors left in the logging worker",
        _no_descriptors("logging"),
        _STALLED + _NO_DATABASE,
        ("LoggingNotReady",),
    ),
    _logging(
        "the database's disk full",
        _database_disk_full,
        _NO_DATABASE,
        ("LoggingDatabaseNotAccessible", "LoggingStoreErrors"),
        short=True,
    ),
    _logging(
        "the database's disk read-only",
        _database_disk("error=EROFS"),
        _NO_DATABASE,
        ("LoggingDatabaseNotAccessible", "LoggingStoreErrors"),
    ),
    _logging(
        "the database's disk takes 8 s for each sync",
        _database_disk("delay_enter=8000000", _SYNC_CALLS),
        _NO_DATABASE,
        ("LoggingNotReady",),
    ),
    _logging(
        "the database's disk takes 0.8 s for each sync",
        _database_disk("delay_enter=800000", _SYNC_CALLS),
        alerts=("LoggingCommitSlow",),
    ),
    _logging(
        "the database's disk gone: I/O errors",
        _database_disk("error=EIO", f"pread64,{_DISK_CALLS}"),
        _NO_DATABASE,
        ("LoggingDatabaseNotAccessible", "LoggingStoreErrors"),
    ),
    _logging(
        "the database locked by another process",
        _locked("logging"),
        _NO_DATABASE,
        ("LoggingDatabaseNotAccessible",),
        short=True,
    ),
    _logging(
        "the database corrupt, until a backup is restored",
        _database_corrupt,
        _NO_DATABASE,
        ("LoggingDatabaseNotAccessible", "LoggingStoreErrors"),
    ),
    _logging(
        "the database replaced by a backup",
        _database_replaced,
        _NO_DATABASE,
        ("LoggingStoreErrors",),
        brief=True,
    ),
    _logging(
        "the database deleted",
        _deleted("logging"),
        _NO_DATABASE,
        ("LoggingStoreErrors",),
        brief=True,
    ),
    _inference("clocks a day ahead", _clock(_DAY), clocks=True, answers=True),
    _inference("clocks a day behind", _clock(-_DAY), clocks=True, answers=True),
    _inference("clocks at 1970", _clock(-1_750_000_000), clocks=True, answers=True),
)
