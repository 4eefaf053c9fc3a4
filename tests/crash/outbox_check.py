"""Whether an outbox keeps its promises after a power cut, opened with the service's own code."""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import orjson

from bentos.inference.delivery.outbox import (
    Outbox,
    files_to_adopt,
    is_set_aside,
    outbox_path,
    outboxes_in,
)


def broken_promise(directory: Path, said: Iterable[str]) -> str | None:
    """Return what is wrong with the outboxes of a directory, None where nothing is.

    What was answered waits, or was refused, or has reached the logging service; no file holds a
    prediction twice.
    """
    answered = {line.removeprefix("answered ") for line in said if line.startswith("answered ")}
    found = {line.removeprefix("stored ") for line in said if line.startswith("stored ")}
    files = [*outboxes_in(directory).values(), *files_to_adopt(directory, worker=1, workers=1)]
    if any(is_set_aside(path) for path in files):
        return "a file was set aside"
    # The service makes its own file where there is none.
    for path in {*files, outbox_path(directory, 1)}:
        try:
            with closing(Outbox(path)) as outbox:
                check = outbox._connection.execute("PRAGMA integrity_check").fetchall()
                if check != [("ok",)]:
                    return f"{path.name}: {check}"
                ids = [_id(prediction) for _, prediction in outbox.oldest(1_000_000)]
                ids += [_id(one.prediction) for one in outbox.dead_letters(rows=1_000_000)]
        except (sqlite3.Error, orjson.JSONDecodeError) as error:
            return f"{path.name}: {error}"
        twice = [one for one, count in Counter(ids).items() if count > 1]
        if twice:
            return f"{path.name} holds twice: {twice[:3]}"
        found.update(ids)
    lost = answered - found
    return f"answered and lost: {sorted(lost)[:3]}" if lost else None


def _id(prediction: bytes) -> str:
    return str(orjson.loads(prediction)["prediction_id"])
