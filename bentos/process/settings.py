"""Settings that every service has, read once from the environment and validated at start."""

import math
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bentos.health.window import WINDOW_SECONDS

# An address may hold a password.
_ADDRESS = re.compile("ur[il]$")
SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class ServiceSettings(BaseSettings):
    """What any service built on the probe kit is set by."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field(
        default="0.0.0.0",
        description="Address that the service and its probe process listen on; `::` for IPv6.",
    )
    probe_port: int = Field(
        default=0, ge=0, le=65_535, description="Port of the probe process; 0 for none."
    )
    workers: int = Field(default=1, ge=1, le=64, description="Worker processes in the pod.")
    max_body_bytes: int = Field(
        default=10_485_760, ge=1_024, description="Largest request body, in bytes."
    )
    max_bodies_bytes: int = Field(
        default=134_217_728,
        validate_default=True,
        description="Memory for the bodies of all requests together, in bytes; beyond, a 429.",
    )
    request_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Longest a request may take, in seconds; then it is a 504."
    )
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        description="How long an idle connection is kept, longer than proxies before it do.",
    )
    max_connections: int = Field(
        default=4_096,
        ge=16,
        description="Connections of a worker; beyond, the one whose client has kept it waiting"
        " longest is closed.",
    )
    stall_seconds: float = Field(
        default=30.0, gt=0, description="How long work may be stuck before `/health` turns 500."
    )
    error_window_seconds: int = Field(
        default=WINDOW_SECONDS,
        ge=1,
        le=3_600,
        description="Sliding window over which `/ready` judges the error rate, in seconds.",
    )
    worker_grace_seconds: float = Field(
        default=15.0, gt=0, description="How long a dead worker may be missing before a 500."
    )
    drain_seconds: float = Field(
        default=3.0,
        ge=0,
        description="Time between `shutting_down` in `/ready` and the port's closing, in seconds.",
    )
    shutdown_seconds: int = Field(
        default=15, ge=1, description="Longest wait for requests in flight after draining."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level that is logged."
    )
    log_format: Literal["json", "plain"] = Field(
        default="json", description="`json`, one object a line, or `plain`."
    )

    @field_validator("max_bodies_bytes")
    @classmethod
    def _holds_the_largest(cls, value: int, given: ValidationInfo) -> int:
        least = given.data.get("max_body_bytes", 0) * given.data.get("workers", 1)
        if value < least:
            raise ValueError(f"must be MAX_BODY_BYTES for each of WORKERS at least, {least}")
        return value

    @property
    def max_bodies_bytes_a_worker(self) -> int:
        """A worker's share of the memory for bodies."""
        return self.max_bodies_bytes // self.workers

    @field_validator("*")
    @classmethod
    def _port_of_its_own(cls, value: object, given: ValidationInfo) -> object:
        """Refuse a service's port that its probe process takes: neither would get all requests."""
        own = str(given.field_name).endswith("_port") and given.field_name != "probe_port"
        if own and value == given.data.get("probe_port"):
            raise ValueError("must not be PROBE_PORT as well; give each a port of its own")
        return value

    @field_validator("host")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            ip_address(value)
        except ValueError:
            raise ValueError("must be an IP address, as 0.0.0.0 or ::") from None
        return value

    @field_validator("*")
    @classmethod
    def _usable_secret(cls, value: object) -> object:
        """Strip a secret's white space, as the line end of a file it was read from."""
        if not isinstance(value, SecretStr):
            return value
        text = value.get_secret_value().strip()
        if not text.isprintable():
            raise ValueError("must not contain control characters")
        return SecretStr(text) if text else None

    @field_validator("*")
    @classmethod
    def _finite(cls, value: object) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value


def load_settings(kind: type[SettingsT]) -> SettingsT:
    """Read the settings; a wrong value ends the process with its variable's name and remedy.

    Raises SystemExit whose message lists every wrong variable.
    """
    try:
        return kind()
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            variable = "_".join(str(part) for part in item["loc"]).upper() or kind.__name__
            shown = "" if _is_secret(kind, item["loc"]) else f" (it is {item['input']!r})"
            lines.append(f"  {variable}: {item['msg']}{shown}")
        raise SystemExit("Wrong settings in the environment:\n" + "\n".join(lines)) from None


def _is_secret(kind: type[BaseSettings], location: tuple[int | str, ...]) -> bool:
    """Tell whether a setting may hold a secret, which no message shows."""
    field = kind.model_fields.get(str(location[0])) if location else None
    return (
        field is None
        or "Secret" in str(field.annotation)
        or _ADDRESS.search(str(location[0])) is not None
    )


def environment_names(kind: type[BaseSettings]) -> frozenset[str]:
    """Return the environment variables that a settings class reads."""
    return frozenset(name.upper() for name in kind.model_fields)


def writable_directory(path: Path, variable: str) -> Path:
    """Make the directory where it is missing and return it.

    Raises SystemExit that names the variable where it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"{variable}: cannot make {path}: {error.strerror}") from None
    return path
