"""Which probes a load test sends: the manifests' own, denser ones for percentiles, scrapes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bentos.health.probes import METRICS_PATH
from loadtests.kubelet.spec import ContainerProbes, read_probes
from loadtests.samples import Cadence, ProbeTarget
from loadtests.settings import LoadTestSettings
from local.prober import Schedule
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

_SCRAPE_HEADERS = {"Accept": "text/plain;version=0.0.4"}


@dataclass(frozen=True)
class Subject:
    """A service under test and how Kubernetes would probe it."""

    name: str
    url: str
    probes: ContainerProbes


@dataclass(frozen=True)
class ProbePlan:
    """What is asked, and when."""

    target: ProbeTarget
    schedule: Schedule


def subjects(settings: LoadTestSettings) -> tuple[Subject, ...]:
    """Return the services under test; ManifestError where their probes cannot be read."""
    chosen = (
        (INFERENCE_SERVICE, settings.inference_url, settings.inference_manifest),
        (LOGGING_SERVICE, settings.logging_url, settings.logging_manifest),
    )
    return tuple(
        Subject(name, url, read_probes(manifest, name)) for name, url, manifest in chosen if url
    )


def kubelet_plan(settings: LoadTestSettings) -> list[ProbePlan]:
    """Return the readiness and liveness probes of every service.

    Each is sent at the manifest's period, and densely; start-up probes ended before the load.
    """
    plans: list[ProbePlan] = []
    for subject in subjects(settings):
        for probe in (subject.probes.readiness, subject.probes.liveness):
            if probe is None:
                continue
            cadences: tuple[tuple[Cadence, float], ...] = (
                ("manifest", probe.period_seconds),
                ("dense", settings.probe_interval_seconds),
            )
            plans += [
                ProbePlan(
                    ProbeTarget(subject.name, probe.path, probe.kind, cadence),
                    Schedule(
                        subject.url + probe.path,
                        interval_seconds=seconds,
                        timeout_seconds=probe.timeout_seconds,
                        headers=dict(probe.headers),
                    ),
                )
                for cadence, seconds in cadences
            ]
    return _spread(plans, settings.probe_interval_seconds)


def prometheus_plan(settings: LoadTestSettings) -> list[ProbePlan]:
    """Return the scrapes of every service."""
    plans = [
        ProbePlan(
            ProbeTarget(subject.name, METRICS_PATH, "metrics", "scrape"),
            Schedule(
                subject.url + METRICS_PATH,
                interval_seconds=settings.scrape_interval_seconds,
                timeout_seconds=settings.scrape_timeout_seconds,
                headers=_SCRAPE_HEADERS,
            ),
        )
        for subject in subjects(settings)
    ]
    return _spread(plans, settings.scrape_interval_seconds)


def _spread(plans: Sequence[ProbePlan], seconds: float) -> list[ProbePlan]:
    """Spread the first ticks over a time, so that the probes do not come all at once."""
    return [
        replace(
            plan,
            schedule=replace(plan.schedule, offset_seconds=seconds * position / len(plans)),
        )
        for position, plan in enumerate(plans)
    ]
