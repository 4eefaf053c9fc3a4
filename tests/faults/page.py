"""The page of a run of all faults."""

from collections.abc import Sequence
from datetime import UTC, datetime

from tests.faults.run import CLIENTS, RECOVERED_SECONDS, TOLD_SECONDS, Row

_PAGE = """\
# What is said under every fault

`make faults` starts both services as `bentoml serve` does, with the settings as they are shipped,
a real MLflow server and a real Prometheus on the shipped rules, and injects one fault after the
other while {clients} clients predict. It asks the probe processes ten times a second. Wanted is
that a fault is told within {told:.0f} s, that the pod is ready within {recovered:.0f} s of the
fault's end, and that nothing is started again where that is not the cure.

- **/ready, /health**: what the probes of the service at fault said first that was no 200, and how
  many seconds after the fault's begin. `200` means that they stayed so.
- **requests**: predictions answered with 200, refused with a reason, and without an answer.
- **alerts**: those that began to fire. The rules are the shipped ones with windows cut to a
  thirtieth and each hold to 2 s, so that a run does not take hours; how long a fault has to last
  before it pages is in [monitoring](monitoring.md).
- **ready again**: seconds from the fault's end to the last answer that was no 200.

Last run: {date}, {minutes:.0f} minutes.

{head}
|{rule}|
{lines}

The same in a short run in `make test` (`tests/faults/test_faults.py`).
"""
_HEAD = (
    *("fault", "`/ready`", "`/health`", "requests", "alerts", "ready again", "started again"),
    "verdict",
)
# Alerts of the monitoring itself say nothing of a fault.
_NO_ALERTS = ("Watchdog", "Monitoring")


def page(rows: Sequence[Row], *, minutes: float) -> str:
    """Return the page in Markdown."""
    return _PAGE.format(
        clients=CLIENTS,
        told=TOLD_SECONDS,
        recovered=RECOVERED_SECONDS,
        date=datetime.now(UTC).date(),
        minutes=minutes,
        head=f"| {' | '.join(_HEAD)} |",
        rule="|".join(["---"] * len(_HEAD)),
        lines="\n".join(map(line, rows)),
    )


def line(row: Row) -> str:
    """Return a fault's line of the table."""
    answers = row.answers
    alerts = sorted(one for one in row.alerts if not one.startswith(_NO_ALERTS))
    cells = (
        row.fault.name,
        _said(row.reason, row.told),
        _said(row.unhealthy, row.unhealthy_after),
        f"{len(answers.acknowledged)} / {answers.refused.total()} / {answers.unanswered}",
        ", ".join(alerts) or "none",
        "—" if row.recovered is None else f"{row.recovered:.1f} s",
        ", ".join(row.restarted) or "nothing",
        "; ".join(row.wrong) or "as wanted",
    )
    return f"| {' | '.join(cells)} |"


def _said(reason: str, seconds: float | None) -> str:
    return "200" if seconds is None else f"`{reason}` {seconds:.1f} s"
