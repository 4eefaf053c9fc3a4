"""What a worker and its model process say to each other, as frames on a stream.

A frame is its length, four bytes, little-endian, and its content. The worker sends inputs; the
model process sends the answers of a whole call of the model at once, errors of single inputs,
and events. The two are one program on one machine, so there is no version to negotiate.
"""

import struct
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, Literal, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from bentos.edge.http import ServiceError
from bentos.inference.model import ModelIdentity, ModelSpec, ServedModel

LENGTH = struct.Struct("<I")
_INPUT = struct.Struct("<QB")
_ANSWERS = struct.Struct("<IIIId")  # generation, inputs of the call, answers, classes, seconds
_ID = struct.Struct("<Q")
_ANSWERS_KIND, _ERROR_KIND, _EVENT_KIND = b"a", b"e", b"v"
_LINE_END = b"\n"


class ModelProcessError(Exception):
    """What was raised in the model process; the message is its traceback."""


class InputKind(IntEnum):
    """In what form an input comes: JSON, raw float32, an array with its type, an image file."""

    JSON = 1
    TENSOR = 2
    ARRAY = 3
    FILE = 4


@dataclass(frozen=True, slots=True)
class Input:
    """One input as the model process gets it; of a file, how many pixels it will be."""

    kind: InputKind
    content: bytes
    pixels: int = 0

    @classmethod
    def from_array(cls, values: NDArray[Any]) -> "Input":
        """Return the input for an array that was read here."""
        about = orjson.dumps([values.dtype.str, values.shape])
        return cls(InputKind.ARRAY, about + _LINE_END + values.tobytes())

    def array(self) -> NDArray[Any]:
        """Return the array of an input made with `from_array`."""
        at = self.content.index(_LINE_END)
        dtype, shape = orjson.loads(self.content[:at])
        return np.frombuffer(self.content, np.dtype(dtype), offset=at + 1).reshape(shape)


@dataclass(frozen=True, slots=True)
class Answers:
    """One call of the model: which inputs it answered, how, and what it took.

    `generation` numbers the model among those of its process; `inputs` is the size of the batch
    and the number of ids, classes and rows of probabilities [inputs, classes], except for a call
    that failed, which answered nobody.
    """

    generation: int
    inputs: int
    seconds: float
    ids: Sequence[int] = ()
    classes: Sequence[int] = ()
    probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class InputRefused:
    """One input that got no answer, and why."""

    id: int
    error: ServiceError


@dataclass(frozen=True, slots=True)
class ModelInstalled:
    """From now on this model answers."""

    generation: int
    model: ServedModel


@dataclass(frozen=True, slots=True)
class LoadChanged:
    """How the loading stands; `version` is the one last tried, `retry_at` monotonic seconds.

    `succeeded` and `seconds` tell of an attempt that ended with this change.
    """

    phase: Literal["waiting", "loading", "loaded", "failed"]
    version: str | None = None
    attempts: int = 0
    error: str | None = None
    retry_at: float | None = None
    succeeded: bool | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RegistryChecked:
    """A check of the registry ended; `version` is what the alias points to, where it told."""

    accessible: bool
    version: str | None = None


Message: TypeAlias = Answers | InputRefused | ModelInstalled | LoadChanged | RegistryChecked


def frame(content: bytes) -> bytes:
    """Return content with its length before it."""
    return LENGTH.pack(len(content)) + content


def pack_input(identifier: int, given: Input) -> bytes:
    """Return the frame of an input under an id of the worker's choice."""
    return (
        LENGTH.pack(_INPUT.size + len(given.content))
        + _INPUT.pack(identifier, given.kind)
        + given.content
    )


def unpack_input(content: memoryview) -> tuple[int, Input]:
    """Return an input's id and the input, whose content is a copy."""
    identifier, kind = _INPUT.unpack_from(content)
    return identifier, Input(InputKind(kind), bytes(content[_INPUT.size :]))


def pack(message: Message) -> bytes:
    """Return the frame of a message of the model process."""
    if isinstance(message, Answers):
        return frame(_ANSWERS_KIND + _pack_answers(message))
    if isinstance(message, InputRefused):
        error, cause = message.error, message.error.__cause__
        told = [error.status, error.reason, error.message, error.headers, error.details]
        told.append("".join(traceback.format_exception(cause)) if cause is not None else None)
        return frame(_ERROR_KIND + _ID.pack(message.id) + orjson.dumps(told, default=str))
    if isinstance(message, ModelInstalled):
        return frame(_EVENT_KIND + orjson.dumps(["model", _plain(message)]))
    kind = "load" if isinstance(message, LoadChanged) else "registry"
    return frame(_EVENT_KIND + orjson.dumps([kind, asdict(message)]))


def unpack(content: bytes) -> Message:
    """Return the message that a frame's content holds."""
    kind, rest = content[:1], content[1:]
    if kind == _ANSWERS_KIND:
        return _unpack_answers(rest)
    if kind == _ERROR_KIND:
        (identifier,) = _ID.unpack_from(rest)
        status, reason, message, headers, details, cause = orjson.loads(rest[_ID.size :])
        error = ServiceError(status, reason, message, headers=headers, **details)
        if cause is not None:
            error.__cause__ = ModelProcessError("\n" + cause)
        return InputRefused(identifier, error)
    name, fields = orjson.loads(rest)
    if name == "model":
        return _model_installed(fields)
    return LoadChanged(**fields) if name == "load" else RegistryChecked(**fields)


def _pack_answers(answers: Answers) -> bytes:
    rows = answers.probabilities
    classes = 0 if rows is None else rows.shape[1]
    head = _ANSWERS.pack(
        answers.generation, answers.inputs, len(answers.ids), classes, answers.seconds
    )
    if rows is None:
        return head
    return b"".join(
        (
            head,
            np.asarray(answers.ids, np.uint64).tobytes(),
            np.asarray(answers.classes, np.int32).tobytes(),
            rows.astype(np.float32, copy=False).tobytes(),
        )
    )


def _unpack_answers(content: bytes) -> Answers:
    generation, inputs, count, classes, seconds = _ANSWERS.unpack_from(content)
    if count == 0:
        return Answers(generation, inputs, seconds)
    at = _ANSWERS.size
    ids = np.frombuffer(content, np.uint64, count, at).tolist()
    at += 8 * count
    indices = np.frombuffer(content, np.int32, count, at).tolist()
    at += 4 * count
    rows = np.frombuffer(content, np.float32, count * classes, at).reshape(count, classes)
    return Answers(generation, inputs, seconds, ids, indices, rows)


def _plain(installed: ModelInstalled) -> dict[str, object]:
    model = installed.model
    return {
        "generation": installed.generation,
        "identity": asdict(model.identity),
        "input_shape": model.spec.input_shape,
        "dtype": model.spec.dtype.str,
        "class_names": model.spec.class_names,
        "defects": model.spec.defects,
    }


def _model_installed(fields: dict[str, Any]) -> ModelInstalled:
    spec = ModelSpec(
        tuple(fields["input_shape"]),
        np.dtype(fields["dtype"]),
        tuple(fields["class_names"]),
        tuple(fields["defects"]),
    )
    return ModelInstalled(
        fields["generation"], ServedModel(ModelIdentity(**fields["identity"]), spec)
    )


class Frames:
    """Cuts a stream of bytes into the contents of its frames."""

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what came and give the contents of all frames that are whole by now."""
        data = self._left + data if self._left else data
        at = 0
        while len(data) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(data, at)
            if len(data) - at - LENGTH.size < length:
                break
            yield data[at + LENGTH.size : at + LENGTH.size + length]
            at += LENGTH.size + length
        self._left = data[at:]
