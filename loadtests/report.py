"""What a load test leaves behind: a verdict as text and JSON, and charts."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bentos.health.probes import HEALTH_PATH, METRICS_PATH, READY_PATH
from loadtests.judge import Judgement
from loadtests.replay import Consequences
from loadtests.samples import Observations, Phase, Port, ProbeSample, percentile
from loadtests.settings import LoadTestSettings

VERDICT_FILE = "verdict.json"
PROBES_CHART = "probes.png"

_PATHS = (HEALTH_PATH, READY_PATH, METRICS_PATH)
_SHARES = (0.5, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0)
_LABELS = ("50", "90", "95", "99", "99.5", "99.9", "max")
_COLOURS: Mapping[Phase, str] = {"idle": "tab:blue", "loaded": "tab:red"}
_PORTS: tuple[Port, ...] = ("probes", "http")
_STYLES: Mapping[Port, str] = {"probes": "-", "http": ":"}


def percentiles_ms(samples: Sequence[ProbeSample]) -> dict[str, float]:
    """Return percentiles in milliseconds, unrounded, from the intended start to the answer."""
    values = [one.since_intended * 1000 for one in samples]
    return {label: percentile(values, share) for label, share in zip(_LABELS, _SHARES, strict=True)}


def probe_table(observations: Observations) -> list[dict[str, Any]]:
    """Return a row for each service, path, port and phase that was probed."""
    rows: list[dict[str, Any]] = []
    services = dict.fromkeys(one.service for one in observations.samples)
    parts = observations.split()
    for service in services:
        for path, port, (phase, part) in itertools.product(_PATHS, _PORTS, parts.items()):
            samples = [
                one
                for one in part
                if (one.service, one.path, one.port) == (service, path, port) and not one.missed
            ]
            if samples:
                rows.append(
                    {
                        "service": service,
                        "path": path,
                        "port": port,
                        "phase": phase,
                        "samples": len(samples),
                        "failed": sum(not one.succeeded for one in samples),
                        "percentiles_ms": percentiles_ms(samples),
                        "sent_late_p99_ms": percentile([one.delay for one in samples], 0.99) * 1000,
                    }
                )
    return rows


def format_probe_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table for a terminal."""
    lines = [
        f"{'milliseconds':44}{'probes':>8}{'p50':>9}{'p99':>9}{'p99.9':>9}{'max':>9}{'failed':>8}"
    ]
    for row in rows:
        found = row["percentiles_ms"]
        name = f"{row['service']} {row['path']} {row['port']} {row['phase']}"
        numbers = "".join(f"{found[label]:9.2f}" for label in ("50", "99", "99.9", "max"))
        lines.append(f"{name:44}{row['samples']:8}{numbers}{row['failed']:8}")
    return "\n".join(lines)


def write_verdict(
    folder: Path,
    observations: Observations,
    judgements: Sequence[Judgement],
    consequences: Mapping[str, Consequences],
    settings: LoadTestSettings,
    load_before: float,
) -> Path:
    """Write everything that was found as JSON and return its path.

    `load_before` is the machine's load average before the test.
    """
    outcomes = observations.outcomes
    content = {
        "passed": all(one.kept for one in judgements),
        "breaches": [str(one) for one in judgements if not one.kept],
        "judgements": [{**asdict(one), "kept": one.kept} for one in judgements],
        "probes": probe_table(observations),
        "requests": {
            name: {"sent": sum(counts.values()), **counts} for name, counts in outcomes.items()
        },
        "kubelet": {service: asdict(found) for service, found in consequences.items()},
        "settings": settings.model_dump(mode="json", exclude={"logging_token"}),
        "load_average_before": load_before,
        "note": "Probe times are unrounded and run from the moment a probe should have been sent.",
    }
    path = folder / VERDICT_FILE
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def draw_probes(folder: Path, observations: Observations, settings: LoadTestSettings) -> Path:
    """Draw each probe's percentiles, of both ports, idle and loaded, beside its limit."""
    from matplotlib.figure import Figure

    limits = {
        HEALTH_PATH: settings.max_health_p99_ms,
        READY_PATH: settings.max_ready_p99_ms,
        METRICS_PATH: settings.max_metrics_p99_ms,
    }
    rows = probe_table(observations)
    services = list(dict.fromkeys(row["service"] for row in rows)) or ["no service"]
    figure = Figure(figsize=(12, 3.6 * len(services)), layout="constrained")
    grid = figure.subplots(len(services), len(_PATHS), squeeze=False, sharey=True)
    for service, axes_row in zip(services, grid, strict=True):
        for path, axes in zip(_PATHS, axes_row, strict=True):
            for row in rows:
                if (row["service"], row["path"]) == (service, path):
                    axes.plot(
                        _LABELS,
                        [row["percentiles_ms"][label] for label in _LABELS],
                        marker="o",
                        color=_COLOURS[row["phase"]],
                        linestyle=_STYLES[row["port"]],
                        label=f"port {row['port']}, {row['phase']}: {row['samples']} probes",
                    )
            axes.axhline(limits[path], color="grey", linestyle="--", label="limit of p99")
            axes.set(title=f"{service} {path}", yscale="log", xlabel="percentile")
            axes.grid(visible=True, which="both", alpha=0.3)
            axes.legend(fontsize="small")
        axes_row[0].set_ylabel("milliseconds")
    chart = folder / PROBES_CHART
    figure.savefig(chart, dpi=110)
    return chart
