"""What the kubelet would have done with the containers, told from the probes of a load test.

The kubelet's ticks may fall anywhere, so beside the probes that were sent at the manifest's
period every phase of the denser ones is replayed too, and the worst counts.
"""

from dataclasses import dataclass

from loadtests.kubelet.spec import ContainerProbes
from loadtests.kubelet.verdict import Report, Sample, replay, worst_replay
from loadtests.plan import Subject
from loadtests.samples import Cadence, Observations
from monitoring.timings import ProbeKind

_KINDS: tuple[ProbeKind, ...] = ("readiness", "liveness")


@dataclass(frozen=True)
class Consequences:
    """What would have happened to one service's container in the worst case.

    `probes` is the number of probes it is told from, `reasons` the transitions that led to it.
    """

    restarts: int
    unready: int
    probes: int
    reasons: tuple[str, ...]


def consequences_of(subject: Subject, observations: Observations) -> Consequences:
    """Replay a service's probes; one that was not probed has no consequences, of 0 probes."""
    probes = subject.probes
    recorded = [
        sample
        for kind in _KINDS
        for sample in _samples(observations, probes, subject.name, kind, "manifest")
    ]
    reports: list[Report] = []
    if recorded:
        began = min(sample.at for sample in recorded)
        reports.append(replay(probes, recorded, started_at=began, running=True))
    count = len(recorded)
    for kind in _KINDS:
        dense = _samples(observations, probes, subject.name, kind, "dense")
        count += len(dense)
        if dense:
            reports.append(worst_replay(probes, kind, dense))
    return Consequences(
        restarts=max((report.restarts for report in reports), default=0),
        unready=max((report.unready for report in reports), default=0),
        probes=count,
        reasons=tuple(
            str(transition)
            for report in reports
            for transition in report.transitions
            if transition.event in ("restart", "unready")
        ),
    )


def _samples(
    observations: Observations,
    probes: ContainerProbes,
    service: str,
    kind: ProbeKind,
    cadence: Cadence,
) -> list[Sample]:
    if probes.probe(kind) is None:
        return []
    return [
        Sample(kind, one.intended, one.latency, one.status, one.error)
        for one in observations.samples
        if (one.service, one.port, one.probe, one.cadence) == (service, "probes", kind, cadence)
        and not one.missed
    ]
