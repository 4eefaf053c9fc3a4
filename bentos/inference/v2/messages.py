"""The protocol's messages: what a request may hold, what is answered, and the names in them.

The API page needs them without what reads them, and so does the process that starts the workers.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType
from pydantic import Field
from typing_extensions import TypedDict

from bentos import __version__
from bentos.inference.state import SERVICE_NAME

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_ID_CHARACTERS = 256
INPUT = "input"
# What may be asked for, in the order of an answer that was asked for nothing.
OUTPUT_NAMES = (
    *("probabilities", "class", "class_name", "defect_detected", "prediction_id"),
    "verdict",
)
# The protocol's names of the types that are taken: NumPy's, and how many bytes a number has.
DATATYPES: Mapping[str, tuple[str, int]] = {
    **{f"FP{bits}": (f"float{bits}", bits // 8) for bits in (32, 64, 16)},
    **{f"INT{bits}": (f"int{bits}", bits // 8) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (f"uint{bits}", bits // 8) for bits in (8, 16, 32, 64)},
}


class InputParameters(msgspec.Struct, gc=False):
    """Where the numbers of an input are, if not in `data`."""

    binary_data_size: Annotated[
        int | None, Meta(description="the number of bytes of this tensor behind the JSON")
    ] = None
    shared_memory_region: Annotated[str | None, Meta(description="null")] = None


class InputTensor(msgspec.Struct, gc=False):
    """Some inputs of the model, the rows of one tensor."""

    name: Annotated[str, Meta(description="a text")]
    shape: Annotated[
        list[int], Meta(description="an array of whole numbers, the first the number of inputs")
    ]
    datatype: Annotated[str, Meta(description=f"one of {', '.join(DATATYPES)}")]
    data: (
        Annotated[
            Raw,
            Meta(
                description="an array of numbers, flat or nested",
                extra_json_schema={"type": "array"},
            ),
        ]
        | UnsetType
    ) = UNSET
    parameters: Annotated[InputParameters | None, Meta(description="an object, or null")] = None


class OutputParameters(msgspec.Struct, gc=False):
    """How an output is wanted: as bytes behind the JSON, or in it."""

    binary_data: Annotated[bool | None, Meta(description="true, false or null")] = None
    classification: Annotated[int | None, Meta(description="0")] = None
    shared_memory_region: Annotated[str | None, Meta(description="null")] = None


class WantedOutput(msgspec.Struct, gc=False):
    """An output that the client asks for."""

    name: Annotated[str, Meta(description="a text")]
    parameters: Annotated[OutputParameters | None, Meta(description="an object, or null")] = None


class RequestParameters(msgspec.Struct, gc=False):
    """How outputs come that do not say it themselves."""

    binary_data_output: Annotated[bool | None, Meta(description="true, false or null")] = None


class InferenceRequest(msgspec.Struct, gc=False):
    """The body of a request, or the JSON before its bytes."""

    inputs: Annotated[
        tuple[InputTensor],
        Meta(description="an array of one tensor, which holds all inputs as its rows"),
    ]
    id: Annotated[
        Annotated[str, Meta(max_length=MAX_ID_CHARACTERS)] | None,
        Meta(description=f"a text of at most {MAX_ID_CHARACTERS} characters, or null"),
    ] = None
    outputs: (
        Annotated[
            Raw,
            Meta(
                description="an array of the outputs that are wanted; without it, all",
                extra={"holds": list[WantedOutput]},
            ),
        ]
        | UnsetType
    ) = UNSET
    parameters: Annotated[RequestParameters | None, Meta(description="an object, or null")] = None


class BinaryData(TypedDict):
    """Of an output whose numbers stand behind the JSON."""

    binary_data_size: int


class TensorType(TypedDict):
    """What an input or output of the model is."""

    name: str
    datatype: str
    shape: list[int]


class OutputTensor(TensorType):
    """One output for all inputs."""

    data: NotRequired[
        Annotated[list[Any], Field(description="flat; absent where the tensor comes as bytes")]
    ]
    parameters: NotRequired[BinaryData]


class InferenceAnswer(TypedDict):
    """The outputs, a row for each input."""

    model_name: str
    model_version: str
    id: NotRequired[Annotated[str, Field(description="that of the request, where it has one")]]
    outputs: list[OutputTensor]


class Judged(TypedDict):
    """A probe's answer: why the service or its model is not live or ready, where it is not."""

    error: NotRequired[str]
    reason: NotRequired[str]


class Live(Judged):
    """Whether the service is live."""

    live: bool


class Ready(Judged):
    """Whether the service, or its model where it has a name, is ready."""

    name: NotRequired[str]
    ready: bool


class ServerMetadata(TypedDict):
    """What the server is, and what it can do beside the protocol's least."""

    name: str
    version: str
    extensions: list[str]


SERVER: ServerMetadata = {
    "name": SERVICE_NAME,
    "version": __version__,
    "extensions": ["binary_tensor_data"],
}


class ModelMetadata(TypedDict):
    """What the model takes and gives."""

    name: str
    versions: Annotated[list[str], Field(description="The one that is served.")]
    platform: str
    inputs: list[TensorType]
    outputs: list[TensorType]
