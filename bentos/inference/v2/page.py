"""The routes of the protocol on the API page."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bentos import __version__
from bentos.edge.openapi import JSON, Content, Operation
from bentos.inference.state import SERVICE_NAME, V2_MODEL_PATH, V2_PATH, V2_VERSION_PATH
from bentos.inference.v2.messages import HEADER_LENGTH, OUTPUT_NAMES, STRUCTS

SCHEMAS: Mapping[str, Any] = msgspec.json.schema_components(
    STRUCTS, ref_template="#/components/schemas/{name}"
)[1]

_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array", "description": "flat; absent where the tensor comes as bytes"},
        "parameters": {"type": "object"},
    },
}
_ANSWER = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string", "description": "that of the request, where it has one"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_TEXT = {"type": "string"}
_SERVER = {
    "type": "object",
    "required": ["name", "version", "extensions"],
    "properties": {
        "name": {"const": SERVICE_NAME},
        "version": _TEXT,
        "extensions": {"type": "array", "items": _TEXT},
    },
}
_METADATA = {
    "type": "object",
    "required": ["name", "versions", "platform", "inputs", "outputs"],
    "properties": {
        "name": _TEXT,
        "versions": {"type": "array", "items": _TEXT, "description": "The one that is served."},
        "platform": _TEXT,
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_REQUEST = {
    "id": "strip 7",
    "inputs": [
        {"name": "input", "shape": [2, 3], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 1, 0, 0]}
    ],
    "outputs": [{"name": "class"}, {"name": "class_name"}],
}
_ANSWERED = {
    "model_name": "steel-defects",
    "model_version": "3",
    "id": "strip 7",
    "outputs": [
        {"name": "class", "datatype": "INT64", "shape": [2], "data": [1, 0]},
        {"name": "class_name", "datatype": "BYTES", "shape": [2], "data": ["crack", "good"]},
    ],
}
_MODEL = {
    "name": "steel-defects",
    "versions": ["3"],
    "platform": "mlflow_pytorch",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "class", "datatype": "INT64", "shape": [-1]}],
}
_TAG = "Open Inference Protocol"
_UNKNOWN = ("There is no such model, or not in this version.", None)
_OTHER_METHOD = ("It takes GET.", None)


def infer_operations(answers: Mapping[int, tuple[str, Content | None]]) -> list[Operation]:
    """Return the operations of the protocol; `answers` are the errors of `/predict`."""
    example = {
        "name": SERVICE_NAME,
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }
    return [
        _get(
            V2_PATH, "The server: its name, version and extensions", Content(JSON, _SERVER, example)
        ),
        _get(
            f"{V2_PATH}/health/live",
            "Liveness, judged as by /health",
            _judged("live"),
            {500: ("Not live.", _judged("live", "event_loop_stalled"))},
        ),
        _get(
            f"{V2_PATH}/health/ready",
            "Readiness, judged as by /ready",
            _judged("ready"),
            {503: ("Not ready.", _judged("ready", "model_not_loaded"))},
        ),
        *(
            operation
            for path in (V2_MODEL_PATH, V2_VERSION_PATH)
            for operation in _of_model(path, answers)
        ),
    ]


def _of_model(path: str, answers: Mapping[int, tuple[str, Content | None]]) -> list[Operation]:
    parameters: list[Mapping[str, object]] = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT}
        for name in ("model", "version")
        if f"{{{name}}}" in path
    ]
    of_version = " in one version" if path == V2_VERSION_PATH else ""
    refused = {status: answer for status, answer in answers.items() if status != 200}
    return [
        _get(
            path,
            f"The model's inputs and outputs{of_version}",
            Content(JSON, _METADATA, _MODEL),
            {404: _UNKNOWN, 503: ("There is no model now.", None)},
            parameters,
        ),
        _get(
            f"{path}/ready",
            f"Readiness of the model{of_version}",
            _judged("ready", name="steel-defects"),
            {
                404: _UNKNOWN,
                503: ("Not ready.", _judged("ready", "model_not_loaded", name="steel-defects")),
            },
            parameters,
        ),
        Operation(
            "POST",
            f"{path}/infer",
            f"Classify several inputs{of_version}",
            description=(
                "One tensor, whose rows are the inputs: [inputs, ...the model's input shape] or "
                f"[inputs, input size]. Outputs: {', '.join(OUTPUT_NAMES)}. Tensors may also come "
                "and go as bytes behind the JSON, whose size is then the value of the header "
                f"{HEADER_LENGTH}. All inputs are answered, or none."
            ),
            body=[
                Content(JSON, {"$ref": "#/components/schemas/InferenceRequest"}, _REQUEST),
                Content(
                    "application/octet-stream",
                    {
                        "type": "string",
                        "format": "binary",
                        "description": "the JSON, and behind it the numbers, little-endian",
                    },
                ),
            ],
            parameters=[
                *parameters,
                {
                    "name": HEADER_LENGTH,
                    "in": "header",
                    "required": False,
                    "schema": {"type": "integer"},
                    "description": "Bytes of JSON before the binary data, where there is any.",
                },
            ],
            answers={
                200: ("The outputs, a row for each input.", Content(JSON, _ANSWER, _ANSWERED)),
                404: _UNKNOWN,
                **refused,
            },
            protected=True,
            tag=_TAG,
        ),
    ]


def _get(
    path: str,
    summary: str,
    content: Content,
    errors: Mapping[int, tuple[str, Content | None]] | None = None,
    parameters: Sequence[Mapping[str, object]] = (),
) -> Operation:
    answers = {200: (f"{summary}.", content), **(errors or {405: _OTHER_METHOD})}
    return Operation("GET", path, summary, parameters=parameters, answers=answers, tag=_TAG)


def _judged(word: str, reason: str = "", *, name: str = "") -> Content:
    """Return a probe's body: the protocol's word, and the reason where it is not so."""
    properties: dict[str, object] = {"name": _TEXT} if name else {}
    example: dict[str, object] = {"name": name} if name else {}
    properties[word] = {"const": not reason}
    example[word] = not reason
    if reason:
        properties |= {"error": _TEXT, "reason": _TEXT}
        example |= {"error": f"not {word}: {reason}", "reason": reason}
    schema = {"type": "object", "required": list(properties), "properties": properties}
    return Content(JSON, schema, example)
