"""Judges a load test's observations by its limits; every limit is reported, kept or broken.

Probes are judged by the answers of the probe port, which the kubelet and Prometheus ask.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from bentos.health.probes import HEALTH_PATH, METRICS_PATH, READY_PATH
from loadtests.kinds import expected_requests
from loadtests.replay import Consequences
from loadtests.samples import Observations, Outcome, ProbeSample, percentile
from loadtests.settings import LoadTestSettings

_SOAK_WINDOW_SECONDS = 60.0
# A window that the end of the test cut short has too few probes for a percentile.
_FEWEST_IN_WINDOW = 100


@dataclass(frozen=True)
class Judgement:
    """One limit: what was found, of how many observations. `value` is None for none at all."""

    limit: str
    bound: float
    value: float | None
    unit: str
    samples: int
    detail: str = ""

    @property
    def kept(self) -> bool:
        """Whether the limit held; one that nothing was found for did not."""
        return self.value is not None and self.value <= self.bound

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.limit}: matched no sample, so nothing is known of it"
        sign = "at most" if self.kept else "BROKEN, more than"
        found = f"{self.limit}: {_number(self.value)}{self.unit}, {sign} {_number(self.bound)}"
        return f"{found}{self.unit} ({self.samples} samples){self.detail}"


def judge(
    observations: Observations,
    consequences: Mapping[str, Consequences],
    settings: LoadTestSettings,
) -> list[Judgement]:
    """Return a judgement for every limit.

    `consequences` says for each service what the kubelet would have done.
    """
    judged = replace(
        observations, samples=[one for one in observations.samples if one.port == "probes"]
    )
    services = dict.fromkeys((*consequences, *(one.service for one in judged.samples)))
    judgements: list[Judgement] = []
    for service in services:
        judgements += _latencies(service, judged, settings)
        judgements += _failures(service, judged, settings)
        judgements += _consequences(service, consequences.get(service), settings)
    judgements += _requests(observations, settings)
    return judgements


def _latencies(
    service: str, observations: Observations, settings: LoadTestSettings
) -> Iterator[Judgement]:
    loaded = observations.split()["loaded"]
    for path, bound in (
        (HEALTH_PATH, settings.max_health_p99_ms),
        (READY_PATH, settings.max_ready_p99_ms),
        (METRICS_PATH, settings.max_metrics_p99_ms),
    ):
        samples = [
            one for one in loaded if one.service == service and one.path == path and not one.missed
        ]
        value, detail = None, ""
        if samples:
            value = _p99_ms(samples)
        if samples and settings.shape == "soak":
            value, detail = _worst_window(samples, value or 0.0)
        yield Judgement(
            f"{service} {path} p99 under load", bound, value, " ms", len(samples), detail
        )


def _worst_window(samples: Sequence[ProbeSample], whole: float) -> tuple[float, str]:
    """Return the worst minute's p99 in milliseconds, and when it was."""
    first = samples[0].intended
    windows: dict[int, list[ProbeSample]] = {}
    for sample in samples:
        windows.setdefault(int((sample.intended - first) // _SOAK_WINDOW_SECONDS), []).append(
            sample
        )
    full = {
        minute: _p99_ms(window)
        for minute, window in windows.items()
        if len(window) >= _FEWEST_IN_WINDOW
    }
    if not full:
        return whole, ""
    worst = max(full, key=lambda minute: full[minute])
    return full[worst], f", in minute {worst + 1} of {len(full)}"


def _failures(
    service: str, observations: Observations, settings: LoadTestSettings
) -> Iterator[Judgement]:
    samples = [one for one in observations.samples if one.service == service]
    for path in (HEALTH_PATH, READY_PATH, METRICS_PATH):
        asked = [one for one in samples if one.path == path and not one.missed]
        failed = [one for one in asked if not one.succeeded]
        yield Judgement(
            f"{service} {path} failed",
            settings.max_failed_probes,
            float(len(failed)) if asked else None,
            "",
            len(asked),
            _reasons(failed),
        )
    ready = [one for one in samples if one.path == READY_PATH and not one.missed]
    ready.sort(key=lambda one: one.intended)
    turned = sum(before.succeeded and not after.succeeded for before, after in pairwise(ready))
    yield Judgement(
        f"{service} readiness flaps",
        settings.max_readiness_flaps,
        float(turned) if ready else None,
        "",
        len(ready),
    )
    missed = sum(one.missed for one in samples)
    yield Judgement(
        f"{service} missed probes",
        settings.max_missed_probes,
        float(missed) if samples else None,
        "",
        len(samples),
        ": the prober could not send them in time, so the machine was too busy to tell"
        if missed > settings.max_missed_probes
        else "",
    )


def _reasons(failed: Sequence[ProbeSample]) -> str:
    if not failed:
        return ""
    counts: dict[str, int] = {}
    for sample in failed:
        reason = sample.error or f"status {sample.status}"
        counts[reason] = counts.get(reason, 0) + 1
    return ": " + ", ".join(f"{reason} {count} times" for reason, count in counts.items())


def _consequences(
    service: str, consequences: Consequences | None, settings: LoadTestSettings
) -> Iterator[Judgement]:
    probes = consequences.probes if consequences else 0
    yield Judgement(
        f"{service} would have been restarted",
        settings.max_restarts,
        float(consequences.restarts) if consequences and probes else None,
        " times",
        probes,
    )
    yield Judgement(
        f"{service} would have been taken out of rotation",
        settings.max_readiness_flaps,
        float(consequences.unready) if consequences and probes else None,
        " times",
        probes,
    )


def _requests(observations: Observations, settings: LoadTestSettings) -> Iterator[Judgement]:
    # A kind of request that should have been sent and never was must not pass for faultless.
    for name in dict.fromkeys((*expected_requests(settings), *observations.outcomes)):
        yield from _ratios(name, observations.outcomes.get(name, {}), settings)


def _ratios(
    name: str, counts: Mapping[Outcome, int], settings: LoadTestSettings
) -> Iterator[Judgement]:
    sent = sum(count for outcome, count in counts.items() if outcome != "dropped")
    due = sum(counts.values())
    limits: list[tuple[str, Outcome, float, int]] = [
        ("failed", "failed", settings.max_error_ratio, sent),
        ("answered 429", "rejected", settings.max_rejected_ratio, sent),
    ]
    if settings.open_loop:
        limits.append(("dropped before sending", "dropped", settings.max_dropped_ratio, due))
    for what, outcome, bound, total in limits:
        ratio = 100 * counts.get(outcome, 0) / total if total else None
        yield Judgement(f"{name} {what}", 100 * bound, ratio, "%", total)


def _p99_ms(samples: Sequence[ProbeSample]) -> float:
    return percentile([one.since_intended for one in samples], 0.99) * 1000


def _number(value: float) -> str:
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
