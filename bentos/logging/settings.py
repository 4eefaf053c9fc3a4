"""What the logging service is set by, in environment variables of the same names."""

from pathlib import Path

from pydantic import Field, SecretStr

from bentos.process.settings import ServiceSettings


class LoggingSettings(ServiceSettings):
    """Settings of the logging service, read once at start."""

    logging_port: int = Field(default=8001, ge=1, le=65_535, description="Port of the service.")
    probe_port: int = Field(
        default=8011, ge=0, le=65_535, description="Port of the probe process; 0 for none."
    )
    database_path: Path = Field(
        default=Path(".data/predictions.db"), description="SQLite database of the predictions."
    )
    logging_token: SecretStr | None = Field(
        default=None, description="Bearer token that `/log` requires, where it is set."
    )
    protect_reads: bool = Field(
        default=False, description="Require the token for `/stats` and `/predictions` as well."
    )
    max_batch_predictions: int = Field(
        default=10_000, ge=1, description="Most predictions one request may bring."
    )
    write_queue_rows: int = Field(
        default=20_000, ge=1, description="Predictions that may wait to be stored; beyond, a 429."
    )
    busy_timeout_seconds: float = Field(
        default=2.0, gt=0, description="Longest wait for another process's lock on the database."
    )
    query_timeout_seconds: float = Field(
        default=2.0, gt=0, description="Longest query of `/stats` and `/predictions`, in seconds."
    )
