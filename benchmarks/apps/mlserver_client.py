"""Asks servers of the Open Inference Protocol with MLServer's own types and codecs.

Run with the peers' Python: `mlserver_client.py FILE.npy URL...`, each the URL of a model. Prints
the outputs of each, a name to its values, as one line of JSON.
"""

import json
import sys
import urllib.request

import numpy as np
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec  # type: ignore[import-not-found]
from mlserver.types import (  # type: ignore[import-not-found]
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
)


def ask(url: str, inputs: "np.ndarray") -> dict[str, list[object]]:
    """Return the decoded outputs of one model."""
    with urllib.request.urlopen(url.partition("/models/")[0], timeout=30) as answer:
        MetadataServerResponse.model_validate_json(answer.read())
    with urllib.request.urlopen(url, timeout=30) as answer:
        MetadataModelResponse.model_validate_json(answer.read())
    body = NumpyRequestCodec.encode_request(inputs).model_dump_json().encode()
    request = urllib.request.Request(f"{url}/infer", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        response = InferenceResponse.model_validate_json(answer.read())
    return {
        output.name: (
            StringCodec.decode_output(output)
            if output.datatype == "BYTES"
            else NumpyCodec.decode_output(output).tolist()
        )
        for output in response.outputs
    }


if __name__ == "__main__":
    given = np.load(sys.argv[1])
    for model in sys.argv[2:]:
        print(json.dumps(ask(model, given)))
