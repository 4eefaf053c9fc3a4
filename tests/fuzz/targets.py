"""The parsers of what comes from outside, each with real inputs and what must hold for any."""

import asyncio
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from bentos.edge.http import ServiceError
from bentos.edge.tokens import Tokens
from bentos.evidence import ChallengerAnswer, EvidenceBatch, HeatMap
from bentos.inference.channel import (
    Answers,
    Beat,
    Input,
    InputKind,
    Reader,
    RegistryChecked,
    ToModel,
    ToWorker,
    Writer,
)
from bentos.inference.images import FORMATS, open_image, read_pixels
from bentos.inference.model.loading import _description, _input_of
from bentos.inference.model.numbers import NumberReader
from bentos.inference.model.spec import Metadata, ModelSpec, picture_of
from bentos.inference.request import inputs_of, upload_of
from bentos.inference.v2.tensors import read_request
from bentos.logging.request import BatchParser
from bentos.logging.review.page.heat import read_map, svg
from bentos.logging.review.request import parse_evidence, parse_labels
from tests.support.evidence import evidence
from tests.support.predictions import batch, prediction
from tests.support.requests import chunk, request

MAX_PIXELS = 1_000_000
# No input of these sizes may take longer, however slow the machine.
_MOST_SECONDS = 20.0
_BOUNDARY = b"fuzz"
_SPEC = ModelSpec(
    (4,), "float32", ("a", "b"), (False, True), picture_of((4,), "float32", Metadata())
)


class FoundError(AssertionError):
    """An input that a parser must not treat like this."""


@dataclass(frozen=True)
class Target:
    """A parser: `parse` raises ServiceError 4xx, or an error of `refusals`, for what is wrong."""

    parse: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    refusals: tuple[type[Exception], ...] = ()

    def check(self, content: bytes) -> None:
        """Parse; raises FoundError where that ended in any other way than it may."""
        started = time.monotonic()
        try:
            self.parse(content)
        except ServiceError as error:
            if not 400 <= error.status < 500:
                raise FoundError(f"{error.status} {error.reason}: {error.message}") from error
        except FoundError:
            raise
        except self.refusals:
            pass
        except Exception as error:
            raise FoundError(f"{type(error).__name__}: {error}") from error
        if time.monotonic() - started > _MOST_SECONDS:
            raise FoundError(f"it took {time.monotonic() - started:.0f} s")


def _picture(content: bytes) -> object:
    return read_pixels(open_image(content, max_pixels=MAX_PIXELS), "RGB", (16, 16))


@cache
def pictures() -> Sequence[bytes]:
    """Return small files of every format and of many of its variants."""
    pixels = np.random.default_rng(1).integers(0, 255, (24, 20, 4), np.uint8)
    colour = Image.fromarray(pixels)
    variants: list[tuple[str, Image.Image, dict[str, Any]]] = [
        *((kind, colour.convert("RGB"), {}) for kind in FORMATS),
        ("PNG", colour, {}),
        *(("PNG", colour.convert(mode), {}) for mode in ("1", "L", "P", "LA", "I;16")),
        ("JPEG", colour.convert("RGB"), {"progressive": True}),
        ("JPEG", colour.convert("L"), {"quality": 5}),
        ("JPEG", colour.convert("CMYK"), {}),
        *(("BMP", colour.convert(mode), {}) for mode in ("1", "L", "P")),
    ]
    files = []
    for kind, image, options in variants:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


def _json_numbers(content: bytes) -> object:
    return NumberReader().read(Input(InputKind.JSON, content), _SPEC)


def _rows(content: bytes) -> object:
    given = inputs_of(b"application/json", content, _SPEC, limit=8)
    return NumberReader().read(given, _SPEC)


def _infer(content: bytes) -> object:
    return NumberReader().read(read_request(content, None, _SPEC, limit=8).given, _SPEC)


def _infer_bytes(content: bytes) -> object:
    """Read what stands behind the last brace as the bytes of a tensor."""
    length = str(content.rfind(b"}") + 1).encode()
    return NumberReader().read(read_request(content, length, _SPEC, limit=8).given, _SPEC)


def _infers(*, binary: bool) -> Sequence[bytes]:
    size = _SPEC.input_size
    tensor: dict[str, object] = {"name": "x", "shape": [2, size], "datatype": "FP32"}
    raw = bytes(8 * size) if binary else b""
    numbers = {"parameters": {"binary_data_size": len(raw)}} if binary else {"data": [0] * 2 * size}
    wanted = {"id": "1", "outputs": [{"name": "class", "parameters": {"binary_data": True}}]}
    return [json.dumps({"inputs": [{**tensor, **numbers}], **wanted}).encode() + raw]


def _batch(content: bytes) -> object:
    parser = BatchParser(max_predictions=100)
    return asyncio.run(parser.parse(content, request_id="fuzz"))


def _batches() -> Sequence[bytes]:
    rows = [prediction(), prediction(confidence_scores={"a": 0.5}, processing_notes="note")]
    return [json.dumps(batch(*rows[:count])).encode() for count in (1, 2)]


def _csv(content: bytes) -> object:
    return parse_labels(content, b"text/csv")


def _labels(content: bytes) -> object:
    return parse_labels(content, b"application/json")


def _label_seeds() -> Sequence[bytes]:
    label = {"prediction_id": "1", "true_class": "crack", "labelled_by": "ada", "note": "n"}
    return [json.dumps(one).encode() for one in (label, {"labels": [label, label]})]


def _csv_seeds() -> Sequence[bytes]:
    names = "prediction_id,true_class,labelled_by,note,edge_device_id,reported"
    rows = ('1,crack,ada,"a ""note""",line-4,true', "2,good,ada,,,")
    return ["\n".join((names, *rows)).encode(), "\r\n".join((names, *rows)).encode()]


def _evidences() -> Sequence[bytes]:
    challenger = ChallengerAnswer("4", "good", 0.7)
    return [msgspec.json.encode(EvidenceBatch([evidence(), evidence(challenger=challenger)]))]


def _map(content: bytes) -> object:
    return svg(read_map(content))


def _maps() -> Sequence[bytes]:
    return [msgspec.json.encode(HeatMap("crack", 0.9, "3", 1, 2, [[0.1, -4.0]]))]


def _multipart(content: bytes) -> object:
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY.decode()}"}
    asked = request(chunk(content), path="/predict_image", headers=headers)
    return upload_of(asked, content)


def form(content: bytes, name: str = "picture.png") -> bytes:
    """Return a form of one file with the boundary of these tests."""
    head = f'Content-Disposition: form-data; name="image"; filename="{name}"'
    return b"\r\n".join([b"--" + _BOUNDARY, head.encode(), b"", content, b"--" + _BOUNDARY + b"--"])


def _tokens(content: bytes) -> object:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(content)
        file.flush()
        tokens = Tokens(None, Path(file.name), realm="fuzz")
    known = {line.strip() for line in content.decode().split("\n")}
    for line in list(known)[:3]:
        for guess in {line[:-1], f"{line}~", ""} - known:
            try:
                tokens.require(b"Bearer " + guess.encode())
            except ServiceError:
                continue
            raise FoundError(f"a token that does not stand in the file was accepted: {guess!r}")
    return tokens


def _mlmodel(content: bytes) -> object:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "MLmodel").write_bytes(content)
        description = _description(Path(folder))
        return _input_of(description), Metadata.read(description.metadata or {})


def _mlmodels() -> Sequence[bytes]:
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    spec = TensorSpec(np.dtype(np.float32), (-1, 3, 16, 16))
    model = Model(signature=ModelSignature(Schema([spec])), metadata={"class_names": ["a", "b"]})
    model.add_flavor("pytorch", model_data="data", pytorch_version="2.0.0")
    return [model.to_yaml().encode()]


def _to_model(content: bytes) -> object:
    return _cut(Reader(ToModel), content)


def _to_worker(content: bytes) -> object:
    return _cut(Reader(ToWorker), content)


def _cut(reader: "Reader[object]", content: bytes) -> object:
    """Cut a stream into messages, as it comes in small pieces."""
    messages: list[object] = []
    for at in range(0, len(content), 37):
        reader.received(content[at : at + 37])
        messages += reader
    return messages


def _stream(*messages: ToModel | ToWorker) -> Sequence[bytes]:
    written = bytearray()
    Writer(written.extend).write(*messages)
    return [bytes(written)]


_INPUTS = (Input(InputKind.JSON, b'{"data": [1, 2]}', 1), Input(InputKind.TENSOR, bytes(16), 2))
_ANSWERS = (Beat(), Answers(1, 1, 0.5, [1], [0], bytes(8)), RegistryChecked(True, "1", "note"))


TARGETS = {
    "pictures": Target(_picture, pictures),
    "numbers": Target(_json_numbers, lambda: [b'{"data": [1, 2.5, -3e2, 0]}', b'{"data": []}']),
    "several inputs": Target(_rows, lambda: [b'{"data": [[1, 2.5, -3e2, 0], [0, 0, 0, 1]]}']),
    "infer": Target(_infer, lambda: _infers(binary=False)),
    "infer with bytes": Target(_infer_bytes, lambda: _infers(binary=True)),
    "batches": Target(_batch, _batches),
    "kept pictures": Target(parse_evidence, _evidences),
    "labels": Target(_labels, _label_seeds),
    "labels as CSV": Target(_csv, _csv_seeds),
    "heat maps": Target(_map, _maps, (ValueError,)),
    "multipart": Target(_multipart, lambda: [form(b"content"), form(pictures()[0])]),
    # A file of tokens that cannot be read is refused with these, at start.
    "tokens": Target(_tokens, lambda: [b"one\ntwo\n", "drei\u00e4\n".encode()], (ValueError,)),
    # Whatever a load raises leaves the last good model serving; it must neither end nor hang.
    "MLmodel": Target(_mlmodel, _mlmodels, (Exception,)),
    # The two ends are one program: a damaged stream ends the process, and must not do worse.
    "inputs": Target(_to_model, lambda: _stream(*_INPUTS), (Exception,)),
    "answers": Target(_to_worker, lambda: _stream(*_ANSWERS), (Exception,)),
}
