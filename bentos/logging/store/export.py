"""Predictions as Parquet, a file for each day of arrival, for whoever analyses them.

Times are Unix seconds, and `detections` and `confidence_scores` are JSON texts, as they are stored.
pyarrow is not among the service's packages, since it alone is as large as the rest of its image.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Raw

from bentos.logging.store.schema import COLUMNS, StoredPrediction
from bentos.logging.store.source import Source


class ExportError(Exception):
    """What is missing to export; the message says what to do."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and its predictions."""

    path: Path
    predictions: int


def export_parquet(
    source: Source,
    folder: Path,
    *,
    since: float = 0.0,
    until: float | None = None,
    report: Callable[[Exported], None],
) -> int:
    """Write a file `YYYY-MM-DD.parquet` for each UTC day of arrival; return all predictions.

    A file is complete or not there: it is written beside its place and renamed. That of a day that
    is not over is replaced by the next export. Raises ExportError without pyarrow.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ExportError(
            "to export, install pyarrow: pip install pyarrow. The service needs it for nothing else"
        ) from None
    text = arrow.string()
    kinds = {str: text, float: arrow.float64(), bool: arrow.bool_(), Raw: text}
    schema = arrow.schema(
        [arrow.field(one.name, kinds[one.kind], nullable=one.nullable) for one in COLUMNS]
    )
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for day, start, end in source.days(since, until or time.time() + 86_400):
        path = folder / f"{day:%Y-%m-%d}.parquet"
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        count = 0
        try:
            with parquet.ParquetWriter(unfinished, schema, compression="zstd") as writer:
                for rows in source.arrived(start, end):
                    writer.write_batch(arrow.record_batch(_columns(rows), schema=schema))
                    count += len(rows)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        total += count
        report(Exported(path, count))
    return total


def _columns(rows: Sequence[StoredPrediction]) -> list[list[Any]]:
    return [[_plain(getattr(row, one.name)) for row in rows] for one in COLUMNS]


def _plain(value: Any) -> Any:
    return bytes(value).decode() if isinstance(value, Raw) else value
