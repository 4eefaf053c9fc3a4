"""The routes of the protocol on the API page."""

from collections.abc import Mapping, Sequence

from bentos.edge.openapi import JSON, Content, Operation, parameter
from bentos.inference.state import V2_MODEL_PATH, V2_PATH, V2_VERSION_PATH
from bentos.inference.v2.messages import (
    HEADER_LENGTH,
    OUTPUT_NAMES,
    SERVER,
    InferenceAnswer,
    InferenceRequest,
    Live,
    ModelMetadata,
    Ready,
    ServerMetadata,
)

_REQUEST = {
    "id": "strip 7",
    "inputs": [
        {"name": "input", "shape": [2, 3], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 1, 0, 0]}
    ],
    "outputs": [{"name": "class"}, {"name": "class_name"}],
}
_ANSWER: InferenceAnswer = {
    "model_name": "steel-defects",
    "model_version": "3",
    "id": "strip 7",
    "outputs": [
        {"name": "class", "datatype": "INT64", "shape": [2], "data": [1, 0]},
        {"name": "class_name", "datatype": "BYTES", "shape": [2], "data": ["crack", "good"]},
    ],
}
_NOT_LIVE: Live = {
    "live": False,
    "error": "not live: event_loop_stalled",
    "reason": "event_loop_stalled",
}
_NOT_READY: Ready = {
    "ready": False,
    "error": "not ready: model_not_loaded",
    "reason": "model_not_loaded",
}
_NAMED = {"name": "steel-defects"}
_MODEL: ModelMetadata = {
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
    return [
        _get(
            V2_PATH,
            "The server: its name, version and extensions",
            Content(JSON, ServerMetadata, SERVER),
        ),
        _get(
            f"{V2_PATH}/health/live",
            "Liveness, judged as by /health",
            Content(JSON, Live, {"live": True}),
            {500: ("Not live.", Content(JSON, Live, _NOT_LIVE))},
        ),
        _get(
            f"{V2_PATH}/health/ready",
            "Readiness, judged as by /ready",
            Content(JSON, Ready, {"ready": True}),
            {503: ("Not ready.", Content(JSON, Ready, _NOT_READY))},
        ),
        *(
            operation
            for path in (V2_MODEL_PATH, V2_VERSION_PATH)
            for operation in _of_model(path, answers)
        ),
    ]


def _of_model(path: str, answers: Mapping[int, tuple[str, Content | None]]) -> list[Operation]:
    parameters = [
        parameter(name, "string", where="path")
        for name in ("model", "version")
        if f"{{{name}}}" in path
    ]
    of_version = " in one version" if path == V2_VERSION_PATH else ""
    refused = {status: answer for status, answer in answers.items() if status != 200}
    return [
        _get(
            path,
            f"The model's inputs and outputs{of_version}",
            Content(JSON, ModelMetadata, _MODEL),
            {404: _UNKNOWN, 503: ("There is no model now.", None)},
            parameters,
        ),
        _get(
            f"{path}/ready",
            f"Readiness of the model{of_version}",
            Content(JSON, Ready, {**_NAMED, "ready": True}),
            {
                404: _UNKNOWN,
                503: ("Not ready.", Content(JSON, Ready, {**_NAMED, **_NOT_READY})),
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
                Content(JSON, InferenceRequest, _REQUEST),
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
                parameter(
                    HEADER_LENGTH,
                    "integer",
                    "Bytes of JSON before the binary data, where there is any.",
                    where="header",
                ),
            ],
            answers={
                200: (
                    "The outputs, a row for each input.",
                    Content(JSON, InferenceAnswer, _ANSWER),
                ),
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
