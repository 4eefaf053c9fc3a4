"""Datasette on the database of a running logging service, read only: what `make browse` runs."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

_QUERY_SECONDS = 10

QUERIES: Mapping[str, tuple[str, str, str]] = {
    "defects_by_device_and_hour": (
        "Defects by device and hour",
        "The hours of the last week (UTC) in which a device saw defects, and what share they are.",
        """
        WITH hours AS (
            SELECT edge_device_id, CAST(timestamp / 3600 AS INTEGER) AS hour,
                count(*) AS predictions, sum(defect_detected) AS defects
            FROM predictions
            WHERE timestamp > (SELECT max(timestamp) FROM predictions) - 7 * 86400
            GROUP BY edge_device_id, hour
        )
        SELECT edge_device_id, datetime(hour * 3600, 'unixepoch') AS hour, defects, predictions,
            round(100.0 * defects / predictions, 1) AS percent
        FROM hours WHERE defects > 0 ORDER BY hour DESC, defects DESC LIMIT 1000
        """,
    ),
    "lowest_confidence": (
        "Lowest confidence",
        "Of the newest 100,000 predictions those of which the model was least sure: label them.",
        """
        SELECT image_id, edge_device_id, datetime(timestamp, 'unixepoch') AS time,
            json_extract(detections, '$[0].class') AS class,
            json_extract(detections, '$[0].confidence') AS confidence, verdict, model_name,
            model_version, prediction_id
        FROM (SELECT * FROM predictions ORDER BY timestamp DESC LIMIT 100000)
        WHERE json_array_length(detections) > 0 ORDER BY confidence LIMIT 100
        """,
    ),
    "verdicts_by_version": (
        "Verdicts by version",
        "Of the newest 100,000 predictions: what each version passed, failed and left to a person.",
        """
        SELECT model_name, model_version, count(*) AS predictions, sum(verdict = 'pass') AS pass,
            sum(verdict = 'fail') AS fail, sum(verdict = 'review') AS review,
            round(100.0 * sum(verdict = 'review') / count(verdict), 2) AS percent_review
        FROM (SELECT * FROM predictions ORDER BY timestamp DESC LIMIT 100000)
        WHERE verdict IS NOT NULL GROUP BY model_name, model_version
        ORDER BY model_name, model_version
        """,
    ),
    "slowest": (
        "Slowest",
        "The longest inference times of the newest 100,000 predictions.",
        """
        SELECT inference_time_ms, image_id, edge_device_id,
            datetime(timestamp, 'unixepoch') AS time, model_name, model_version, prediction_id
        FROM (SELECT * FROM predictions ORDER BY timestamp DESC LIMIT 100000)
        ORDER BY inference_time_ms DESC LIMIT 100
        """,
    ),
    "by_version": (
        "By version",
        "What each version of each model has predicted, from the totals behind /stats.",
        """
        SELECT model_name, model_version, predictions, defects,
            round(100.0 * defects / max(predictions, 1), 2) AS percent,
            round(inference_time_ms / max(predictions, 1), 3) AS average_inference_time_ms,
            datetime(first_timestamp, 'unixepoch') AS first,
            datetime(last_timestamp, 'unixepoch') AS last
        FROM model_totals ORDER BY model_name, model_version
        """,
    ),
}


def metadata(database: str) -> dict[str, Any]:
    """Return Datasette's description of the database: its tables and canned queries."""
    return {
        "title": "Predictions",
        "description": "What the edge devices and the inference service have predicted, as it is"
        " stored now. Read only.",
        "databases": {
            database: {
                "description": "The database of the logging service.",
                "tables": {
                    "predictions": {
                        "description": "A row for each prediction; times are Unix seconds.",
                        "sort_desc": "id",
                        "size": 50,
                    },
                    "all_totals": {"description": "Totals of everything."},
                    "edge_device_totals": {"description": "Totals by device."},
                    "model_totals": {"description": "Totals by model and version."},
                    "_sqlite_migrations": {"hidden": True},
                },
                "queries": {
                    name: {"title": title, "description": description, "sql": sql}
                    for name, (title, description, sql) in QUERIES.items()
                },
            }
        },
    }


def command(database: Path, description: Path, *, port: int) -> list[str]:
    """Return the command that serves a database; not as immutable, since it is written to."""
    return [
        *(
            sys.executable,
            "-m",
            "datasette",
            "serve",
            str(database),
            "--metadata",
            str(description),
        ),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--setting", "sql_time_limit_ms", str(_QUERY_SECONDS * 1_000)),
        # Whole tables as one download would hold the service's write-ahead log for as long.
        *("--setting", "allow_download", "off", "--setting", "allow_csv_stream", "off"),
    ]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Become Datasette; raises SystemExit where there is no database."""
    parser = argparse.ArgumentParser(prog="make browse", description=__doc__)
    default = Path(os.environ.get("DATABASE_PATH") or ".data/predictions.db")
    parser.add_argument("--database", type=Path, default=default)
    parser.add_argument("--port", type=int, default=8002)
    options = parser.parse_args(arguments)
    if not options.database.is_file():
        raise SystemExit(f"{options.database}: there is no database; `make serve` makes one")
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(metadata(options.database.stem), file)
    sys.stdout.write(f"browse: http://127.0.0.1:{options.port}/{options.database.stem}\n")
    sys.stdout.flush()
    serve = command(options.database, Path(file.name), port=options.port)
    os.execv(sys.executable, serve)  # noqa: S606 - our own command


if __name__ == "__main__":
    main()
