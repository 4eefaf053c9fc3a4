"""The message between the services: declared once, and everything else derived from it."""

import json
import sqlite3
from pathlib import Path

import msgspec
from msgspec.structs import astuple

from bentos.logging.store.queries import PageQuery, read_page
from bentos.logging.store.schema import INSERT
from bentos.logging.store.sqlite import SqliteSession
from bentos.messages import Batch, Prediction
from tests.support.logging_store import opened, row
from tests.support.predictions import batch, prediction


def test_every_field_of_a_prediction_is_a_column_and_stands_in_a_page(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    with opened(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute(INSERT, astuple(row()))
    columns = {name for (_, name, *_) in connection.execute("PRAGMA table_info(predictions)")}
    (shown,) = json.loads(read_page(SqliteSession(connection), PageQuery()))["predictions"]
    connection.close()

    fields = set(Prediction.__struct_fields__)
    assert fields <= columns
    assert columns == set(shown) == fields | {"id", "received_at", "sent_at"}


def test_a_batch_as_devices_send_it_is_one() -> None:
    decoded = msgspec.json.decode(json.dumps(batch(prediction())).encode(), type=Batch)

    assert decoded.batch_size == len(decoded.predictions) == 1
