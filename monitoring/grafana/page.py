"""The page about the dashboards, docs/dashboards.md, from the same sources as the dashboards."""

from collections.abc import Mapping, Sequence

from monitoring.grafana.dashboard import Dashboard
from monitoring.grafana.schema import Row
from monitoring.prometheus.source import ALERTS

# Pictures of states in which a dashboard tells something, beside the one in which all is well.
STATES: Mapping[str, Mapping[str, str]] = {
    "overview": {
        "model-not-loaded": (
            "After a restart there is no model to load: the registry's alias is gone. *Ready* and "
            "*Model loaded* are red, the alerts below name the cause, and requests are refused."
        )
    },
    "inference": {
        "high-error-rate": (
            "The model does not answer in time: *Error ratio* is above the dashed line at which "
            "`/ready` turns to 503 `high_error_rate`, and *Errors by reason* says `timeout`."
        )
    },
    "logging": {
        "logging-away": (
            "The logging service is stopped: *Ready* is red, *Not yet delivered* grows while "
            "predictions go on, and nothing is lost."
        )
    },
    "probes": {},
    "kubernetes": {},
}

_INTRODUCTION = """\
# Dashboards

This page is written by `python -m monitoring.generate` from `monitoring/grafana/`; edit that.

Five dashboards, each for one reader. Begin with the overview: it says what is wrong and which of
the others explains it. An alert leads to the dashboard under which it stands here, by its
annotation `dashboard`; a panel leads to the runbooks of the alerts that watch the same thing, by
the arrow in its corner.

At the top you choose data source, namespace, job, model, stage and instance. Links to the other
dashboards keep the time range, namespace, model and stage.

- Red is wrong, yellow deserves a look, green is fine, blue and grey say neither.
- A ratio without traffic shows nothing, not 0%: no request has failed, and none has succeeded.
- Refusals are no errors: `bad_input` is the client's, `queue_full` is load. `/ready` and the
  objectives judge failures of the service alone.
- An instance that gives no answer at all is shown as not ready.

The pictures are drawn from driven services by `python -m tests.monitoring.dashboard_pictures --out
docs/images`, which takes about ten minutes; a scrape a second and alerts with shortened times stand
in for the real ones, and simulated exporters for a cluster. Grafana's own libraries check every
panel's options, units, thresholds and words.
"""


def page(dashboards: Mapping[str, Dashboard]) -> str:
    """Return the page; the names of the dashboards are those of their files."""
    return "\n".join([_INTRODUCTION, *(_section(name, dashboards[name]) for name in STATES)])


def _section(name: str, dashboard: Dashboard) -> str:
    rows = "\n".join(
        f"| {row.title} | {row.question} | {_alerts(_watched(row))} |" for row in dashboard.rows
    )
    shown = {alert for row in dashboard.rows for alert in _watched(row)}
    others = [each.name for each in ALERTS.values() if each.dashboard == name]
    leading = _alerts([each for each in others if each not in shown])
    parts = [
        f"## {dashboard.title.rpartition(' / ')[2]}\n",
        f"{dashboard.description} **Read by:** {dashboard.readers}\n",
        f"![The {name} dashboard while all is well](images/{name}.png)\n",
        f"| row | answers | alerts that its panels lead to |\n|---|---|---|\n{rows}\n",
    ]
    if leading:
        parts.append(f"Alerts that lead here as well: {leading}.\n")
    for state, caption in STATES[name].items():
        words = state.replace("-", " ")
        parts.append(f"{caption}\n")
        parts.append(f"![The {name} dashboard: {words}](images/{name}-{state}.png)\n")
    return "\n".join(parts)


def _watched(row: Row) -> list[str]:
    """Return the alerts whose runbooks a row's panels link to."""
    return list(dict.fromkeys(alert for panel in row.panels for alert in panel.alerts))


def _alerts(names: Sequence[str]) -> str:
    return ", ".join(f"[{name}](runbooks/{name}.md)" for name in names)
