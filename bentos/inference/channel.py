"""The stream between a worker and its model process: messages, both ends, and the process's life.

A frame is its length, four bytes, little-endian, and one message as MessagePack; bulk numbers are
raw bytes in it. The two ends are one program on one machine: there is no version to negotiate.
The model has a process of its own so that nothing it does, a load, a long call, a crash, keeps
the worker from answering: they share no interpreter lock.
"""

import asyncio
import contextlib
import logging
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from bentos.edge.http import ServiceError
from bentos.inference.model.spec import ServedModel
from bentos.process.backoff import Backoff
from bentos.process.logs import event, get_logger

if TYPE_CHECKING:
    from bentos.inference.engine import Engine
    from bentos.inference.state import InferenceState

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# A process that had a model and lived this long did not die of its start: it is replaced at once.
_PROVEN_SECONDS = 10.0
# Between the end of its stream and its own.
_END_SECONDS = 5.0
_SOCKET_BYTES = 1 << 22
_ROOM_BYTES = 1 << 18
_LENGTH = struct.Struct("<I")
# More than any body that a worker takes, and less than would fill its memory.
_MOST_FRAME_BYTES = 1 << 30
_MODULE = "bentos.inference.model"
SETTINGS_VARIABLE = "MODEL_PROCESS_SETTINGS"
_ROOT = Path(__file__).parents[2]

_logger = get_logger("model")
T = TypeVar("T")


class ModelProcessError(Exception):
    """What was raised in the model process; the message is its traceback."""


class InputKind(IntEnum):
    """In what form inputs come.

    JSON is the body of one input and FILE an image file; TENSOR is raw numbers; NUMBERS is a JSON
    array of numbers, flat or nested in any way, and ROWS one of a flat array for each input.
    MASKED is an image file as well: its inputs are the picture, and it again with each cell of the
    heat map's grid masked, row by row.
    """

    JSON = 1
    TENSOR = 2
    FILE = 3
    NUMBERS = 4
    ROWS = 5
    MASKED = 6


class _Message(msgspec.Struct, array_like=True, gc=False):
    """One message; a subclass's name is its tag on the stream."""


class Input(_Message, tag=2):
    """The inputs of one request, which one model answers; the worker numbers what it sends.

    There are `rows` of them, one after the other; `dtype` is the type of their numbers in NumPy's
    words. JSON and FILE hold one.
    """

    kind: InputKind
    content: bytes
    id: int = 0
    rows: int = 1
    dtype: str = "<f4"


class Withdrawn(_Message, tag=10):
    """A deferred input whose client gave up: it need not be read any more."""

    id: int


class Answers(_Message, tag=3):
    """One call of the model: which inputs it answered, how, and what it took.

    `generation` numbers the model among those of its process; `inputs` is the size of the batch.
    A call that failed answered nobody; else `ids` and `classes` have a number for each input, and
    `probabilities` float32 [inputs, classes of the model], as bytes. Inputs of one request share
    its id and come in their order, if need be in several of these. `measures` has what was measured
    of each input's picture, nothing where no input was a picture to measure.
    """

    generation: int
    inputs: int
    seconds: float
    ids: list[int] = []
    classes: list[int] = []
    probabilities: bytes = b""
    measures: list[list[float]] = []

    def rows(self) -> list[Sequence[float]]:
        """Return the probabilities of each input, one for each class of the model."""
        numbers = memoryview(self.probabilities).cast("f")
        width = len(numbers) // max(1, len(self.ids))
        return [numbers[at : at + width] for at in range(0, len(numbers), width)]


class Deferred(_Message, tag=4):
    """Inputs that wait apart from the others: large pictures, decoded on a thread of their own."""

    ids: list[int]


class Refused(_Message, tag=5):
    """One input that got no answer, and why."""

    id: int
    status: int
    reason: str
    message: str
    headers: dict[str, str]
    details: dict[str, Any]
    cause: str | None = None

    @classmethod
    def of(cls, identifier: int, error: Exception) -> "Refused":
        """Return what a client is told of an error, and the cause for the log."""
        if isinstance(error, ServiceError):
            cause = error.__cause__
        else:
            cause = error
            error = ServiceError(500, "model_failure", "the model failed on this input")
        text = "".join(traceback.format_exception(cause)) if cause is not None else None
        return cls(
            identifier,
            error.status,
            error.reason,
            error.message,
            error.headers,
            error.details,
            text,
        )

    def error(self) -> ServiceError:
        """Return the error to raise in the worker."""
        error = ServiceError(
            self.status, self.reason, self.message, headers=self.headers, **self.details
        )
        if self.cause is not None:
            error.__cause__ = ModelProcessError("\n" + self.cause)
        return error


class Installed(_Message, tag=6):
    """From now on this model answers."""

    generation: int
    model: ServedModel


class LoadChanged(_Message, tag=7):
    """How the loading stands; `version` is the one last tried, `retry_at` monotonic seconds.

    `succeeded` and `seconds` are of an attempt that ended with this change.
    """

    phase: Literal["waiting", "loading", "loaded", "failed"]
    version: str | None = None
    attempts: int = 0
    error: str | None = None
    retry_at: float | None = None
    succeeded: bool | None = None
    seconds: float = 0.0


class RegistryChecked(_Message, tag=8):
    """A check of the registry ended; `version` is what the alias points to.

    `note` says why there is none, or why the registry could not be asked.
    """

    accessible: bool
    version: str | None = None
    note: str = ""


class Beat(_Message, tag=9):
    """The process runs, whatever its model is busy with."""


ToModel: TypeAlias = Input | Withdrawn
ToWorker: TypeAlias = (
    Answers | Deferred | Refused | Installed | LoadChanged | RegistryChecked | Beat
)


class Reader(Generic[T]):
    """Cuts what was received into messages of one kind.

    Raises ValueError where the stream is damaged, which ends it, and with it the process.
    """

    def __init__(self, kind: Any) -> None:
        self._decode: Callable[[memoryview], T] = msgspec.msgpack.Decoder(kind).decode
        # Grows with what came of a message, not with the length that it announces.
        self._data = bytearray()
        self._start = 0

    def received(self, data: bytes | memoryview) -> None:
        """Take more of the stream."""
        self._data += data

    def next(self) -> T | None:
        """Return the next message, None where it is not whole yet."""
        start, received = self._start, len(self._data) - self._start
        if received >= _LENGTH.size:
            size = _LENGTH.size + _LENGTH.unpack_from(self._data, start)[0]
            if size > _MOST_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes: the stream is damaged")
            if received >= size:
                self._start = start + size
                return self._decode(memoryview(self._data)[start + _LENGTH.size : self._start])
        del self._data[:start]
        self._start = 0
        return None

    def __iter__(self) -> Iterator[T]:
        while (message := self.next()) is not None:
            yield message


class Writer:
    """Puts messages on a stream, each whole, from any thread."""

    def __init__(self, write: Callable[[bytearray], object]) -> None:
        self._write = write
        self._encode_into = msgspec.msgpack.Encoder(enc_hook=str).encode_into
        self._lock = Lock()

    def write(self, *messages: ToModel | ToWorker) -> None:
        """Write messages in one piece."""
        data = bytearray()
        for message in messages:
            start = len(data) + _LENGTH.size
            self._encode_into(message, data, start)
            _LENGTH.pack_into(data, start - _LENGTH.size, len(data) - start)
        with self._lock:
            self._write(data)


class Progress:
    """How far the model process came, in memory that it shares with its worker.

    After a process died it tells the inputs that may have ended it from those it never saw.
    """

    def __init__(self, descriptor: int) -> None:
        self._cell = memoryview(mmap.mmap(descriptor, mmap.PAGESIZE)).cast("q")

    @classmethod
    def make(cls) -> "tuple[Progress, int]":
        """Return the worker's side, and a descriptor to make the other one of and to close."""
        descriptor = os.memfd_create("progress")
        os.truncate(descriptor, mmap.PAGESIZE)
        progress = cls(descriptor)
        progress.taken = -1
        return progress, descriptor

    @property
    def taken(self) -> int:
        """The id of the last input that was taken; ids only grow."""
        return self._cell[0]

    @taken.setter
    def taken(self, identifier: int) -> None:
        self._cell[0] = identifier


class Connection:
    """The model process's end of the stream. One thread receives, any thread sends."""

    def __init__(self, stream: socket.socket, progress: Progress | None = None) -> None:
        self._stream = stream
        self._progress = progress
        self._reader: Reader[ToModel] = Reader(ToModel)
        self._room = memoryview(bytearray(_ROOM_BYTES))
        self.send = Writer(stream.sendall).write

    def receive(self, most: int) -> list[ToModel]:
        """Wait for messages; return what came of them at once, empty at the stream's end.

        No more are read once they hold `most` inputs.
        """
        messages: list[ToModel] = []
        inputs = 0
        read = False
        while inputs < most:
            message = self._reader.next()
            if message is not None:
                messages.append(message)
                inputs += message.rows if isinstance(message, Input) else 1
            # Not a second time for one batch: that would nearly always be a call for nothing.
            elif (read and messages) or not self._fill(wait=not messages):
                break
            else:
                read = True
        if self._progress is not None and messages:
            self._progress.taken = max(self._progress.taken, *(one.id for one in messages))
        return messages

    def _fill(self, *, wait: bool) -> bool:
        """Receive more bytes; tell whether some came."""
        flags = 0 if wait else socket.MSG_DONTWAIT
        try:
            count = self._stream.recv_into(self._room, 0, flags)
        except (BlockingIOError, ConnectionError):
            return False
        self._reader.received(self._room[:count])
        return count > 0


class _WorkerEnd(asyncio.Protocol):
    """The worker's end of the stream."""

    def __init__(
        self, on_message: Callable[[ToWorker], None], closed: "asyncio.Future[None]"
    ) -> None:
        self._on_message = on_message
        self._closed = closed
        self._reader: Reader[ToWorker] = Reader(ToWorker)

    def data_received(self, data: bytes) -> None:
        self._reader.received(data)
        for message in self._reader:
            self._on_message(message)

    def connection_lost(self, _: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)


class ModelProcess:
    """Keeps one model process running and hands on what it says, all on the event loop.

    `settings` are its ModelProcessSettings, as JSON; messages call it by its `name`. One that
    lived for `proven_seconds` with a model is replaced at once when it ends, any other after
    growing pauses.
    """

    def __init__(
        self,
        settings: str,
        engine: "Engine",
        state: "InferenceState",
        *,
        name: str = "model process",
        proven_seconds: float = _PROVEN_SECONDS,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._state = state
        self._name = name
        self._proven_seconds = proven_seconds
        self._load = LoadChanged("waiting")
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._process: subprocess.Popen[bytes] | None = None
        self._progress: Progress | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process; call it on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def kill(self) -> None:
        """End the process at once, whatever it does; another one is started."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        """End the process for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                ended = await self._live()
            except Exception as error:  # whatever it was, a worker without a model is worse
                ended = f"cannot be run: {type(error).__name__}: {error}"
            had_model = self._engine.model is not None
            pause = self._backoff.next()
            if had_model and time.monotonic() - started > self._proven_seconds:
                self._backoff.reset()
                pause = 0.0
            taken = self._progress.taken if self._progress is not None else -1
            self._engine.disconnected(taken=taken, comes_back=had_model)
            self._state.model_is_gone()
            self._loading(
                msgspec.structs.replace(
                    self._load,
                    phase="failed",
                    error=f"the {self._name} {ended}",
                    retry_at=time.monotonic() + pause,
                    succeeded=None,
                )
            )
            fields = {"restart_in_seconds": pause}
            event(_logger, logging.ERROR, f"the {self._name} {ended}", fields)
            await asyncio.sleep(pause)

    async def _live(self) -> str:
        """Start a process, listen to it until it ends, and return how it ended."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            self._progress, descriptor = Progress.make()
            with theirs, os.fdopen(descriptor):
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
                process = self._process = _spawn(self._settings, theirs.fileno(), descriptor)
        except OSError as error:
            ours.close()
            return f"cannot be started: {error}"
        closed: asyncio.Future[None] = loop.create_future()
        ours.setblocking(False)
        transport, _ = await loop.create_unix_connection(
            lambda: _WorkerEnd(self._received, closed), sock=ours
        )
        try:
            self._engine.connected(Writer(transport.write))
            await closed
            # Wait before killing, or a normal exit is reported as SIGKILL.
            await asyncio.to_thread(_wait, process, _END_SECONDS)
        finally:
            transport.close()
            process.kill()
            self._process = None
            status = await asyncio.shield(asyncio.to_thread(process.wait))
        return _ending(status)

    def _received(self, message: ToWorker) -> None:
        """Hand a message on to the engine or the state."""
        if isinstance(message, Answers):
            self._engine.answered(message)
        elif isinstance(message, Refused):
            self._engine.refused(message)
        elif isinstance(message, Deferred):
            self._engine.deferred(message)
        elif isinstance(message, Installed):
            self._engine.install(message)
            self._state.model_is(message.model)
        elif isinstance(message, LoadChanged):
            self._loading(message)
            if message.phase == "failed":
                self._engine.expect_no_model()
        elif isinstance(message, RegistryChecked):
            self._state.registry_checked(message)
            if message.version is None:
                self._engine.expect_no_model()
        self._state.model_heard_at.set(time.monotonic())

    def _loading(self, load: LoadChanged) -> None:
        self._load = load
        self._state.loading(load)


def _spawn(settings: str, *descriptors: int) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", _MODULE, str(os.getpid()), *map(str, descriptors)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        # Not an argument: whoever is on the machine can read those.
        env={**os.environ, "PYTHONPATH": path, SETTINGS_VARIABLE: settings},
    )


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
