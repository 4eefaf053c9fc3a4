"""Any values to JSON: encoding an answer or a log line must never fail."""

import json

import orjson


def encode_json(content: object) -> bytes:
    """Return content as JSON; a value that JSON cannot hold becomes its text."""
    try:
        return orjson.dumps(content, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # Text that is no UTF-8, as a file's name may be, is escaped.
        return json.dumps(content, default=str).encode()
