"""Questions to Prometheus's HTTP API."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import numpy as np

TIMEOUT_SECONDS = 30.0

Array: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"


class QueryError(Exception):
    """Prometheus refused a query or is away; the message says which query and why."""


@dataclass(frozen=True)
class Period:
    """The time that is shown, in Unix seconds, and the distance of its points."""

    start: float
    end: float
    step: float

    @property
    def seconds(self) -> int:
        """How long it is."""
        return round(self.end - self.start)

    @property
    def moments(self) -> Array:
        """The times of its points."""
        return np.arange(self.start, self.end + self.step / 2, self.step)


@dataclass(frozen=True)
class Series:
    """Values of one series over time; an instant query's has one. NaN is a value like others."""

    labels: Mapping[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]

    def at_moments(self, period: Period) -> Array:
        """Return a value for each moment of the period, NaN where there is none."""
        moments = period.moments
        values = np.full(len(moments), np.nan)
        for time, value in zip(self.times, self.values, strict=True):
            index = round((time - period.start) / period.step)
            if 0 <= index < len(moments) and math.isfinite(value):
                values[index] = value
        return values

    @property
    def last(self) -> float:
        """The newest value."""
        return self.values[-1]


@dataclass(frozen=True)
class FiringAlert:
    """An alert that is pending or firing."""

    name: str
    state: str
    severity: str
    summary: str
    service: str


class Prometheus:
    """A Prometheus at a URL; every method raises QueryError where there is no answer."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False)

    def instant(self, expr: str, at: float) -> list[Series]:
        """Return the series of an expression at one moment."""
        data = self._ask("/api/v1/query", {"query": expr, "time": f"{at:.3f}"})
        if data["resultType"] == "scalar":
            return [_series({}, [data["result"]])]
        return [_series(each["metric"], [each["value"]]) for each in data["result"]]

    def over(self, expr: str, period: Period) -> list[Series]:
        """Return the series of an expression over a period."""
        data = self._ask(
            "/api/v1/query_range",
            {
                "query": expr,
                "start": f"{period.start:.3f}",
                "end": f"{period.end:.3f}",
                "step": f"{period.step:g}",
            },
        )
        return [_series(each["metric"], each["values"]) for each in data["result"]]

    def label_values(self, label: str, selector: str, period: Period) -> list[str]:
        """Return the values that a label has on the selected series, sorted."""
        parameters = {
            "match[]": selector,
            "start": f"{period.start:.3f}",
            "end": f"{period.end:.3f}",
        }
        return sorted(self._ask(f"/api/v1/label/{label}/values", parameters))

    def alerts(self) -> list[FiringAlert]:
        """Return what is pending or firing, firing and critical first."""
        found = [
            FiringAlert(
                name=alert["labels"]["alertname"],
                state=alert["state"],
                severity=alert["labels"].get("severity", ""),
                summary=alert["annotations"].get("summary", ""),
                service=alert["labels"].get("service", ""),
            )
            for alert in self._ask("/api/v1/alerts", {})["alerts"]
        ]
        return sorted(found, key=lambda alert: (alert.state, alert.severity, alert.name))

    def _ask(self, path: str, parameters: Mapping[str, str]) -> Any:
        try:
            answer = self._http.get(path, params=parameters)
        except httpx.TransportError as error:
            raise QueryError(f"no answer from {self._http.base_url}: {error}") from error
        try:
            document = answer.json()
        except ValueError as error:
            raise QueryError(f"{self._http.base_url} is no Prometheus") from error
        if answer.status_code != 200:
            raise QueryError(f"{parameters.get('query', path)}: {document.get('error')}")
        return document["data"]


def _series(labels: Mapping[str, str], points: Sequence[Sequence[Any]]) -> Series:
    return Series(
        labels=labels,
        times=tuple(float(time) for time, _ in points),
        values=tuple(_number(value) for _, value in points),
    )


def _number(text: str) -> float:
    special = {"NaN": math.nan, "+Inf": math.inf, "-Inf": -math.inf}
    return special[text] if text in special else float(text)
