"""The routes of the protocol on the API page."""

from collections.abc import Mapping
from typing import Any

import msgspec

from bentos.edge.openapi import JSON, Content, Operation
from bentos.inference.request import TENSOR
from bentos.inference.state import V2_MODEL_PATH, V2_PATH, V2_VERSION_PATH
from bentos.inference.v2.tensors import HEADER_LENGTH, OUTPUTS, STRUCTS

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
_OBJECT = {"type": "object"}
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
_UNKNOWN = ("There is no such model, or not in this version.", None)


def infer_operations(answers: Mapping[int, tuple[str, Content | None]]) -> list[Operation]:
    """Return the operations of the protocol; `answers` are the errors of `/predict`."""
    return [
        _get(
            V2_PATH, "The server: name, version and extensions", {}, {"name": "inference-service"}
        ),
        _get(f"{V2_PATH}/health/live", "Liveness, as /health", {500: "Not live."}, {"live": True}),
        _get(
            f"{V2_PATH}/health/ready",
            "Readiness, as /ready",
            {503: "Not ready; `reason` is that of /ready."},
            {"ready": True},
        ),
        *(
            operation
            for path in (V2_MODEL_PATH, V2_VERSION_PATH)
            for operation in _of_model(path, answers)
        ),
    ]


def _of_model(path: str, answers: Mapping[int, tuple[str, Content | None]]) -> list[Operation]:
    parameters: list[dict[str, object]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("model", "version")
        if f"{{{name}}}" in path
    ]
    of_version = " in one version" if path == V2_VERSION_PATH else ""
    refused = {status: answer for status, answer in answers.items() if status != 200}
    return [
        _get(
            path,
            f"The model's inputs and outputs{of_version}",
            {404: _UNKNOWN[0], 503: "There is no model now."},
            _MODEL,
            parameters,
        ),
        _get(
            f"{path}/ready",
            f"Readiness of the model{of_version}",
            {404: _UNKNOWN[0], 503: "Not ready; `reason` is that of /ready."},
            {"name": "steel-defects", "ready": True},
            parameters,
        ),
        Operation(
            "POST",
            f"{path}/infer",
            f"Classify several inputs{of_version}",
            description=(
                "One tensor, whose rows are the inputs: [inputs, ...the model's input shape] or "
                f"[inputs, input size]. Outputs: {', '.join(OUTPUTS)}. Tensors may also come and "
                f"go as bytes behind the JSON, whose size the header {HEADER_LENGTH} then says. "
                "All inputs are answered, or none."
            ),
            body=[
                Content(JSON, {"$ref": "#/components/schemas/InferenceRequest"}, _REQUEST),
                Content(
                    TENSOR.decode(),
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
        ),
    ]


def _get(
    path: str,
    summary: str,
    errors: Mapping[int, str],
    example: Mapping[str, object],
    parameters: list[dict[str, object]] | None = None,
) -> Operation:
    return Operation(
        "GET",
        path,
        summary,
        parameters=parameters or [],
        answers={
            200: (f"{summary}.", Content(JSON, _OBJECT, example)),
            **{status: (text, None) for status, text in errors.items()},
        },
    )
