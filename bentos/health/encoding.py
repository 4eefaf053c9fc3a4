"""Values to JSON, whatever they are: an error message must not fail to be told."""

import json

import orjson


def encode_json(content: object) -> bytes:
    """Return content as JSON; what JSON does not know is told as its text."""
    try:
        return orjson.dumps(content, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # Text that is no UTF-8, as a file's name may be, is escaped.
        return json.dumps(content, default=str).encode()
