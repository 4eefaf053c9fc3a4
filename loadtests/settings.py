"""What a load test is set by: options of `python -m loadtests.run`, or LOADTEST_ variables."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from loadtests.kubelet.spec import MANIFESTS
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

PREFIX = "LOADTEST_"
Share = Annotated[float, Field(ge=0, le=1)]
PortNumber = Annotated[int, Field(ge=1, le=65_535)]
ShapeName = Literal["steady", "steps", "spike", "soak", "manual"]

_INFERENCE_PORT = InferenceSettings.model_fields["inference_port"].default
_LOGGING_PORT = LoggingSettings.model_fields["logging_port"].default


class LoadTestSettings(BaseSettings):
    """Targets, load, probes and limits of one load test."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_prefix=PREFIX,
        env_ignore_empty=True,
        cli_prog_name="python -m loadtests.run",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        use_attribute_docstrings=True,
    )

    inference_url: str = f"http://127.0.0.1:{_INFERENCE_PORT}"
    """The inference service."""
    logging_url: str = f"http://127.0.0.1:{_LOGGING_PORT}"
    """The logging service; `none` leaves it out."""
    inference_probe_url: str | None = None
    """Its probe port; by default the manifest's, on the host of the service."""
    logging_probe_url: str | None = None
    """The same for the logging service."""
    logging_token: SecretStr | None = None
    """Bearer token for `/log`, where the service wants one."""
    inference_manifest: Path = MANIFESTS[INFERENCE_SERVICE]
    """Where the inference service's probes stand."""
    logging_manifest: Path = MANIFESTS[LOGGING_SERVICE]
    """Where the logging service's probes stand."""

    shape: ShapeName = "steady"
    """How the load runs: steady; steps up in quarters; spike, a sixth of the load with a burst;
    soak, steady and judged minute by minute; manual, as Locust is told."""
    clients: PositiveInt = 16
    """Clients at full load; each waits for its answer."""
    rate: NonNegativeFloat = 0.0
    """Requests per second at full load, arriving at random and waiting for no answer (open loop);
    0: the clients send as fast as they are answered (closed loop)."""
    in_flight: PositiveInt = 100
    """Open loop: most requests of a client on their way; beyond, arrivals drop."""
    idle_seconds: NonNegativeFloat = 10.0
    """Time before the load, to compare the probes with."""
    seconds: PositiveFloat = 30.0
    """Time under load."""
    predict_weight: NonNegativeInt = 6
    """Share of clients of /predict."""
    image_weight: NonNegativeInt = 2
    """Share of clients of /predict_image."""
    log_weight: NonNegativeInt = 1
    """Share of clients of /log."""
    input_size: PositiveInt = 3072
    """Numbers in one input of the model, for /predict."""
    log_batch: PositiveInt = 20
    """Predictions in one batch for /log."""
    request_timeout_seconds: PositiveFloat = 15.0
    """Longest a client waits; then the request has failed."""

    probe_interval_seconds: PositiveFloat = 0.1
    """Pause between probes of /health and of /ready that percentiles come from, beside those at the
    manifest's period."""
    scrape_interval_seconds: PositiveFloat = 1.0
    """Pause between scrapes of /metrics."""
    scrape_timeout_seconds: PositiveFloat = 10.0
    """Longest a scrape may take; Prometheus' own default."""

    max_health_p99_ms: PositiveFloat = 100.0
    """Limit of /health's 99th percentile under load."""
    max_ready_p99_ms: PositiveFloat = 100.0
    """Limit of /ready's 99th percentile under load."""
    max_metrics_p99_ms: PositiveFloat = 250.0
    """Limit of /metrics' 99th percentile under load."""
    max_failed_probes: NonNegativeInt = 0
    """Probes and scrapes that may fail."""
    max_missed_probes: NonNegativeInt = 0
    """Probes that may not be sent in their time."""
    max_readiness_flaps: NonNegativeInt = 0
    """Times that a ready pod may turn unready."""
    max_restarts: NonNegativeInt = 0
    """Times that the kubelet would have restarted the container."""
    max_error_ratio: Share = 0.01
    """Failed requests over all; a 429 is not a failure."""
    max_rejected_ratio: Share = 1.0
    """Requests answered 429 over all."""
    max_dropped_ratio: Share = 0.01
    """Open loop: arrivals that could not be sent over all."""

    reports: Path = Path("reports/loadtest")
    """Folder that takes the results."""
    ui: bool = False
    """Serve Locust's web page instead of a verdict."""
    ui_port: PortNumber = 8089
    """Port of that page."""
    expect_workers: NonNegativeInt = 0
    """Locust workers on other machines to wait for; 0: all clients run here."""
    master_port: PortNumber = 5557
    """Port that those workers connect to."""

    @field_validator("inference_url", "logging_url", "inference_probe_url", "logging_probe_url")
    @classmethod
    def _plain_http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if value.lower() == "none":
            return ""
        if not value.startswith("http://"):
            raise ValueError("give the pod's own address, http://host:port; probes take no other")
        return value.rstrip("/")

    @field_validator("inference_url")
    @classmethod
    def _needed(cls, value: str) -> str:
        if not value:
            raise ValueError("the load test needs the inference service")
        return value

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Self:
        """Return the settings of the environment, overridden by options.

        `make loadtest UI=1` hands on a variable of that name.
        """
        wanted = ["--ui"] if os.environ.get("UI", "0") not in ("", "0") else []
        return cls(_cli_parse_args=[*wanted, *arguments])

    @property
    def open_loop(self) -> bool:
        """Whether requests arrive at a rate, whether or not earlier ones have been answered."""
        return self.rate > 0

    def environment(self) -> dict[str, str]:
        """Return the variables that give another process these settings."""
        variables = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value is None:
                continue
            variables[(PREFIX + name).upper()] = str(value) if value != "" else "none"
        return variables
