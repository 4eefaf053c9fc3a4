"""The protocol's messages: what a request may hold, and the names in it.

The API page needs them without what reads them, and so does the process that starts the workers.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

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
                extra_json_schema={"items": {"$ref": "#/components/schemas/WantedOutput"}},
            ),
        ]
        | UnsetType
    ) = UNSET
    parameters: Annotated[RequestParameters | None, Meta(description="an object, or null")] = None


STRUCTS = (
    *(InferenceRequest, RequestParameters, InputTensor, InputParameters),
    *(WantedOutput, OutputParameters),
)
