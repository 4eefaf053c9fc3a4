"""What the logging service is set by, in environment variables of the same names."""

from pathlib import Path

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationInfo, field_validator

from bentos.edge.tokens import TokensFile
from bentos.process.settings import ServiceSettings


class LoggingSettings(ServiceSettings):
    """Settings of the logging service, read once at start."""

    logging_port: int = Field(
        default=8001, ge=1, le=65_535, validate_default=True, description="Port of the service."
    )
    probe_port: int = Field(
        default=8011, ge=0, le=65_535, description="Port of the probe process; 0 for none."
    )
    database_path: Path = Field(
        default=Path(".data/predictions.db"), description="SQLite database of the predictions."
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL database of the predictions instead of DATABASE_PATH, as"
        " `postgresql://user:password@host/name`; several replicas may share it.",
    )
    logging_token: SecretStr | None = Field(
        default=None, description="Bearer token that `/log` requires, where it is set."
    )
    logging_tokens_file: TokensFile | None = Field(
        default=None,
        description="File of further tokens, one a line, all valid; read again when it changes.",
    )
    protect_reads: bool | None = Field(
        default=None,
        validate_default=True,
        description="Require a token for `/stats` and `/predictions` as well; unset, where there"
        " is one.",
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
    retention_days: float | None = Field(
        default=None,
        gt=0,
        description="Days after their arrival until predictions are deleted; unset, they are kept.",
    )
    max_database_bytes: int | None = Field(
        default=None,
        ge=16_777_216,
        description="Size of the database, in bytes, beyond which the oldest predictions are"
        " deleted; unset, it may grow. Not with DATABASE_URL: set RETENTION_DAYS.",
    )
    review: bool | None = Field(
        default=None,
        validate_default=True,
        description="Whether pictures and labels are kept for review, `on` or `off`; unset, on with"
        " SQLite and off with DATABASE_URL.",
    )
    review_path: Path | None = Field(
        default=None,
        description="Directory of the pictures and labels; unset, `review` beside DATABASE_PATH.",
    )
    review_max_bytes: int = Field(
        default=536_870_912,
        ge=16_777_216,
        description="Size of the pictures and labels on disk, in bytes, beyond which the oldest"
        " pictures are deleted; their rows and labels stay.",
    )
    review_retention_days: float = Field(
        default=90.0,
        gt=0,
        description="Days after their arrival until pictures are deleted; their rows and labels"
        " stay.",
    )
    quality_days: float = Field(
        default=30.0,
        gt=0,
        le=3_650,
        description="Days of pictures from which `/quality` and its metrics are computed.",
    )
    max_escape_rate: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Share of the defects that may get the verdict pass; an alert fires where the"
        " whole interval of the measured rate lies above it.",
    )
    explain_url: AnyHttpUrl | None = Field(
        default=None,
        description="Inference service with EXPLAIN=true, which the page of `/review` asks which"
        " part of a picture decided; without it, the page shows no heat maps.",
    )
    explain_token: SecretStr | None = Field(
        default=None, description="Bearer token for EXPLAIN_URL, where it requires one."
    )
    inference_probe_url: AnyHttpUrl | None = Field(
        default=None,
        description="Probe port of the inference service, which the status page asks; without it,"
        " the page shows the logging service alone.",
    )
    inference_docs_url: AnyHttpUrl | None = Field(
        default=None,
        description="API page of the inference service as browsers reach it, for a link on the"
        " status page.",
    )
    grafana_url: AnyHttpUrl | None = Field(
        default=None, description="Grafana as browsers reach it, for a link on the status page."
    )
    runbooks_url: AnyHttpUrl = Field(
        default=AnyHttpUrl(
            "https://github.com/truthful-serving/truthful-serving/blob/main/docs/runbooks"
        ),
        description="Folder of the runbooks as browsers reach it, for links on the status page.",
    )

    @field_validator("inference_docs_url", "grafana_url", "runbooks_url")
    @classmethod
    def _shows_no_password(cls, value: AnyHttpUrl | None) -> AnyHttpUrl | None:
        if value is not None and (value.username or value.password):
            raise ValueError("must not hold a name or a password: the page shows it to everybody")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_a_database(cls, value: SecretStr | None) -> SecretStr | None:
        # psycopg's own message would show a password that it could not parse.
        if value is not None and not _is_postgresql(value.get_secret_value()):
            raise ValueError(
                "must be postgresql://user:password@host:port/name, special characters in it"
                " percent-encoded"
            )
        return value

    @field_validator("max_database_bytes")
    @classmethod
    def _is_one_file(cls, value: int | None, given: ValidationInfo) -> int | None:
        if value is not None and given.data.get("database_url") is not None:
            raise ValueError(
                "cannot apply to the PostgreSQL database of DATABASE_URL; unset it, and set"
                " RETENTION_DAYS to bound the database"
            )
        return value

    @field_validator("review")
    @classmethod
    def _is_of_one_replica(cls, value: bool | None, given: ValidationInfo) -> bool:
        shared = given.data.get("database_url") is not None
        if value and shared:
            raise ValueError(
                "cannot be on with DATABASE_URL, whose replicas would each keep a part of the"
                " pictures; set it off, or keep predictions in DATABASE_PATH"
            )
        return not shared if value is None else value

    @field_validator("protect_reads")
    @classmethod
    def _has_a_token(cls, value: bool | None, given: ValidationInfo) -> bool:
        names = ("logging_token", "logging_tokens_file")
        required = any(given.data.get(name) is not None for name in names)
        # A token setting that is wrong itself is reported by its own name.
        if value and not required and all(name in given.data for name in names):
            raise ValueError("needs a token: set LOGGING_TOKEN or LOGGING_TOKENS_FILE")
        return required if value is None else value

    @property
    def review_directory(self) -> Path:
        """Where pictures and labels lie."""
        return self.review_path or self.database_path.parent / "review"


def _is_postgresql(url: str) -> bool:
    """Return whether a URL names a PostgreSQL database. Imports psycopg."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    if not url.startswith(("postgresql://", "postgres://")):
        return False
    try:
        parts = conninfo_to_dict(url)
        ports = [int(port or 5432) for port in str(parts.get("port", "")).split(",")]
    except (ProgrammingError, ValueError):
        return False
    return bool(parts.get("dbname")) and all(1 <= port <= 65_535 for port in ports)
