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
        " deleted; unset, it may grow.",
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

    @field_validator("protect_reads")
    @classmethod
    def _has_a_token(cls, value: bool | None, given: ValidationInfo) -> bool:
        names = ("logging_token", "logging_tokens_file")
        required = any(given.data.get(name) is not None for name in names)
        # A token setting that is wrong itself is reported by its own name.
        if value and not required and all(name in given.data for name in names):
            raise ValueError("needs a token: set LOGGING_TOKEN or LOGGING_TOKENS_FILE")
        return required if value is None else value
