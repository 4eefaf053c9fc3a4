"""A request of the protocol to inputs, and predictions to the tensors of its answer."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from bentos.edge.http import Response, ServiceError
from bentos.health.encoding import encode_json
from bentos.inference.channel import Input, InputKind
from bentos.inference.engine import Predicted
from bentos.inference.model.spec import ModelSpec, ServedModel
from bentos.inference.request import BYTES_BESIDE, TENSOR, check_size, too_many
from bentos.inference.v2.messages import (
    DATATYPES,
    HEADER_LENGTH,
    INPUT,
    OUTPUT_NAMES,
    InferenceAnswer,
    InferenceRequest,
    InputParameters,
    InputTensor,
    ModelMetadata,
    OutputParameters,
    OutputTensor,
    WantedOutput,
)

_MAX_SHOWN = 60
_MOST_DIMENSIONS = 8
_NAMES_OF_TYPES = {dtype: name for name, (dtype, _) in DATATYPES.items()}

T = TypeVar("T")

# What a field has to be, by its name.
_EXPECTED = {
    name: schema["description"]
    for component in msgspec.json.schema_components([InferenceRequest, WantedOutput])[1].values()
    for name, schema in component["properties"].items()
}
_requests = msgspec.json.Decoder(InferenceRequest)
_outputs = msgspec.json.Decoder(list[WantedOutput] | None)


@dataclass(frozen=True, slots=True)
class OutputType:
    """An output: its type, what it holds of a prediction, and its shape beyond the inputs.

    `packed` is the format of `struct` for its numbers; empty for texts.
    """

    datatype: str
    values: Callable[[Predicted], list[Any]]
    packed: str = ""
    shape: Callable[[ModelSpec], list[int]] = lambda _: []


_OUTPUT_TYPES = (
    OutputType(
        "FP32",
        lambda made: [number for one in made.predictions for number in one.probabilities],
        "f",
        lambda spec: [len(spec.class_names)],
    ),
    OutputType("INT64", lambda made: [one.class_index for one in made.predictions], "q"),
    OutputType("BYTES", lambda made: [one.class_name for one in made.predictions]),
    OutputType("BOOL", lambda made: [one.defect for one in made.predictions], "?"),
    OutputType("BYTES", lambda made: [one.id for one in made.predictions]),
    OutputType("BYTES", lambda made: [one.verdict for one in made.predictions]),
)
OUTPUTS: Mapping[str, OutputType] = dict(zip(OUTPUT_NAMES, _OUTPUT_TYPES, strict=True))


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that can be answered; `outputs` says of each whether it is wanted as bytes."""

    given: Input
    id: str | None
    outputs: Mapping[str, bool]


def read_request(
    body: bytes, header_length: bytes | None, spec: ModelSpec, *, limit: int
) -> InferRequest:
    """Return the request in a body.

    `header_length` is the header of that name, the size of the JSON that stands before bytes;
    `limit` the most inputs in one request. Raises ServiceError 400 or 413, which names the field.
    """
    text, content = _parts(body, header_length)
    request = _decoded(_requests, text)
    outputs = b"null" if request.outputs is UNSET else bytes(request.outputs)
    if len(outputs) > BYTES_BESIDE:
        raise _bad("outputs", f"at most {BYTES_BESIDE} bytes of JSON", f"{len(outputs)}")
    wanted = _decoded(_outputs, outputs, "outputs")
    binary = request.parameters is not None and bool(request.parameters.binary_data_output)
    (tensor,) = request.inputs
    return InferRequest(
        _inputs_of(tensor, content, spec, limit), request.id, _wanted(wanted or [], binary)
    )


def respond(request: InferRequest, predicted: Predicted) -> Response:
    """Return the answer to a request, its rows in the order of the inputs."""
    model = predicted.model
    described: list[OutputTensor] = []
    binary: list[bytes] = []
    for name, as_bytes in request.outputs.items():
        output = OUTPUTS[name]
        values = output.values(predicted)
        tensor: OutputTensor = {
            "name": name,
            "datatype": output.datatype,
            "shape": [len(predicted.predictions), *output.shape(model.spec)],
        }
        if as_bytes:
            binary.append(_to_bytes(values, output.packed))
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = values
        described.append(tensor)
    content: InferenceAnswer = {
        "model_name": model.identity.name,
        "model_version": model.identity.version,
        "outputs": described,
    }
    if request.id is not None:
        content["id"] = request.id
    head = encode_json(content)
    log = predicted.log()
    if not binary:
        return Response(head, log=log)
    length = (HEADER_LENGTH.lower().encode(), str(len(head)).encode())
    return Response(b"".join([head, *binary]), content_type=TENSOR, headers=(length,), log=log)


def metadata(model: ServedModel) -> ModelMetadata:
    """Return what the protocol says of a model."""
    spec = model.spec
    datatype = _NAMES_OF_TYPES.get(spec.dtype, "FP32")
    return {
        "name": model.identity.name,
        "versions": [model.identity.version],
        "platform": "mlflow_pytorch",
        "inputs": [{"name": INPUT, "datatype": datatype, "shape": [-1, *spec.input_shape]}],
        "outputs": [
            {"name": name, "datatype": output.datatype, "shape": [-1, *output.shape(spec)]}
            for name, output in OUTPUTS.items()
        ],
    }


def in_tensor(error: ServiceError) -> ServiceError:
    """Return an error about the numbers of a request, naming the protocol's field for them."""
    field = str(error.details.get("field", ""))
    if field.startswith("data"):
        error.message = f"inputs[0].{error.message}"
        error.details["field"] = f"inputs[0].{field}"
    return error


def _parts(body: bytes, header_length: bytes | None) -> tuple[bytes, bytes]:
    """Return the JSON of a body, and the bytes behind it."""
    if header_length is None:
        return body, b""
    length = int(header_length) if header_length.isdigit() and len(header_length) < 12 else -1
    if not 0 < length <= len(body):
        shown = header_length[:_MAX_SHOWN].decode("latin-1")
        raise _bad(
            HEADER_LENGTH,
            f"the size of the JSON, 1 to {len(body)} bytes, the size of the body",
            repr(shown),
        )
    if length > BYTES_BESIDE and length < len(body):
        raise _bad(HEADER_LENGTH, f"at most {BYTES_BESIDE} bytes before binary data", str(length))
    return body[:length], body[length:]


def _decoded(decoder: "msgspec.json.Decoder[T]", text: bytes, prefix: str = "") -> T:
    """Return what a JSON text holds; ServiceError 400 that names the field at fault."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = (prefix + path.rstrip("`")).lstrip(".")
        missing = message.partition("missing required field `")[2].rstrip("`")
        if missing:
            field = f"{field}.{missing}".lstrip(".")
        name = field.rpartition(".")[2].partition("[")[0]
        got = "none" if missing else message.partition("got ")[2].replace("`", "")
        expected = _EXPECTED.get(name, "an object with inputs, and if need be id and outputs")
        raise _bad(field or "body", expected, got or message[0].lower() + message[1:]) from None
    except RecursionError:
        raise _bad(prefix or "body", "JSON nested less deeply", "more") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{prefix or 'the body'} is not valid JSON: {error}"
        raise ServiceError(400, "bad_input", message) from None


def _inputs_of(tensor: InputTensor, content: bytes, spec: ModelSpec, limit: int) -> Input:
    """Return the inputs in a tensor whose bytes, where it has some, are `content`."""
    field = "inputs[0]"
    dtype, item_bytes = DATATYPES.get(tensor.datatype, ("", 0))
    if not dtype:
        raise _bad(f"{field}.datatype", _EXPECTED["datatype"], repr(tensor.datatype[:_MAX_SHOWN]))
    rows = _rows(tensor.shape, spec, f"{field}.shape", limit)
    parameters = tensor.parameters or InputParameters()
    if parameters.shared_memory_region is not None:
        raise _bad(
            f"{field}.parameters.shared_memory_region", "no shared memory; send the data", "one"
        )
    size = parameters.binary_data_size
    if size is None:
        if content:
            raise _bad(
                f"{field}.parameters.binary_data_size",
                f"{len(content)}, the bytes behind the JSON",
                "none",
            )
        if tensor.data is UNSET:
            count = rows * spec.input_size
            raise _bad(f"{field}.data", f"an array of {count} numbers, or binary data", "none")
        data = bytes(tensor.data)
        check_size(f"{field}.data", data, rows, spec)
        return Input(InputKind.NUMBERS, data, rows=rows, dtype=dtype)
    if tensor.data is not UNSET:
        raise _bad(f"{field}.data", "nothing beside binary_data_size", "numbers")
    right = rows * spec.input_size * item_bytes
    if size != right:
        raise _bad(
            f"{field}.parameters.binary_data_size",
            f"{right}, the bytes of {rows} inputs of {spec.input_size} numbers in "
            f"{tensor.datatype}",
            str(size),
        )
    if len(content) != size:
        raise _bad(
            "body", f"{size} bytes behind the JSON, as binary_data_size says", f"{len(content)}"
        )
    return Input(InputKind.TENSOR, content, rows=rows, dtype=dtype)


def _rows(shape: Sequence[int], spec: ModelSpec, field: str, limit: int) -> int:
    """Return how many inputs a tensor of this shape holds."""
    if tuple(shape[1:]) not in (spec.input_shape, (spec.input_size,)) or not shape or shape[0] < 1:
        shown = str(list(shape[:_MOST_DIMENSIONS]))[:_MAX_SHOWN]
        one = ", ".join(map(str, spec.input_shape))
        raise _bad(field, f"[inputs, {one}] or [inputs, {spec.input_size}], at least 1", shown)
    if shape[0] > limit:
        raise too_many(field, shape[0], limit)
    return shape[0]


def _wanted(outputs: Sequence[WantedOutput], binary: bool) -> Mapping[str, bool]:
    """Return the outputs that are wanted, all where none is named, and which of them as bytes."""
    wanted: dict[str, bool] = {}
    for index, output in enumerate(outputs):
        field = f"outputs[{index}]"
        if output.name not in OUTPUTS or output.name in wanted:
            got = repr(output.name[:_MAX_SHOWN])
            twice = " a second time" if output.name in wanted else ""
            raise _bad(f"{field}.name", f"each of {', '.join(OUTPUTS)} at most once", got + twice)
        parameters = output.parameters or OutputParameters()
        if parameters.classification:
            raise _bad(
                f"{field}.parameters.classification", "0; request class and class_name", "another"
            )
        if parameters.shared_memory_region is not None:
            raise _bad(f"{field}.parameters.shared_memory_region", "no shared memory", "one")
        wanted[output.name] = binary if parameters.binary_data is None else parameters.binary_data
    return wanted or dict.fromkeys(OUTPUTS, binary)


def _to_bytes(values: list[Any], packed: str) -> bytes:
    """Return a tensor as bytes: numbers little-endian, texts each after its length."""
    if packed:
        return struct.pack(f"<{len(values)}{packed}", *values)
    texts = [text.encode() for text in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _bad(field: str, expected: str, got: str) -> ServiceError:
    return ServiceError(400, "bad_input", f"{field}: expected {expected}, got {got}", field=field)
