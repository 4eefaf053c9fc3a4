"""Scenarios of alerts, and the promtool unit tests they become."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from monitoring.catalogue import CLUSTER_LABELS
from monitoring.prometheus.source import ALERTS
from monitoring.prometheus.source.rule import duration, seconds
from tests.monitoring.scenarios.wave import Series

_OPTIONAL = re.compile(
    r"{{ with \$labels\.(?P<label>\w+) }}(?P<before>[^{]*){{ \. }}(?P<after>[^{]*){{ end }}"
)
_PLACEHOLDER = re.compile(r"{{ (?:\$labels\.(?P<label>\w+)|\$value(?: \| humanize\w*)?) }}")


class Kind(StrEnum):
    """What a check of an alert shows."""

    FIRES = "fires"
    HEALTHY = "silent when healthy"
    BEFORE_FOR = "pending before its time"
    RESOLVES = "resolves"
    TARGET_GONE = "target gone"
    NO_TRAFFIC = "no traffic"


@dataclass(frozen=True)
class Check:
    """The state of an alert at a time: `state` is empty where it neither fires nor is pending."""

    kind: Kind
    at_seconds: int
    state: str = ""


@dataclass(frozen=True)
class Case:
    """One test group of promtool: series, and an alert's states over their time.

    `labels` are all labels that the alert then carries but its name. With `with_texts` its summary
    and description are checked where it first fires; `value` is how they write its value.
    """

    alert: str
    what: str
    series: tuple[Series, ...]
    checks: tuple[Check, ...]
    labels: Mapping[str, str]
    interval: str
    value: str = ""
    with_texts: bool = False

    def document(self, *others: str) -> dict[str, object]:
        """Return the test group; of other alerts, without texts, where some are named."""
        group: dict[str, object] = {
            "name": f"{self.alert}: {self.what}",
            "interval": self.interval,
            "input_series": self._input(),
            "promql_expr_test": [
                self._state_test(check, name)
                for name in others or (self.alert,)
                for check in self.checks
            ],
        }
        if self.with_texts and not others:
            group["alert_rule_test"] = [self._text_test()]
        return group

    def _input(self) -> list[dict[str, str]]:
        length = max(check.at_seconds for check in self.checks)
        return [
            {"series": one.selector, "values": one.wave.notation(self.interval, length)}
            for one in self.series
        ]

    def _state_test(self, check: Check, alert: str) -> dict[str, object]:
        samples: list[dict[str, object]] = []
        if check.state:
            labels = {"alertname": alert, "alertstate": check.state, **self.labels}
            inner = ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
            samples.append({"labels": f"ALERTS{{{inner}}}", "value": 1})
        return {
            "expr": f'ALERTS{{alertname="{alert}"}}',
            "eval_time": duration(check.at_seconds),
            "exp_samples": samples,
        }

    def _text_test(self) -> dict[str, object]:
        fires = next(check for check in self.checks if check.state == "firing")
        alert = ALERTS[self.alert]
        return {
            "eval_time": duration(fires.at_seconds),
            "alertname": self.alert,
            "exp_alerts": [
                {
                    "exp_labels": dict(sorted(self.labels.items())),
                    "exp_annotations": {
                        "summary": self._filled_in(alert.summary),
                        "description": self._filled_in(alert.description),
                        **alert.links,
                    },
                }
            ],
        }

    def _filled_in(self, text: str) -> str:
        """Return an annotation as Prometheus fills it in, in the notation that alerts use.

        Raises KeyError for a label that the alert does not have, ValueError for other notation.
        """

        def optional(found: re.Match[str]) -> str:
            value = self.labels.get(found["label"])
            return f"{found['before']}{value}{found['after']}" if value else ""

        def placeholder(found: re.Match[str]) -> str:
            if found["label"]:
                return self.labels[found["label"]]
            if not self.value:
                raise ValueError(f"{self.alert}: {self.what} gives no value")
            return self.value

        filled = _PLACEHOLDER.sub(placeholder, _OPTIONAL.sub(optional, text))
        if "{{" in filled:
            raise ValueError(f"not understood: {filled}")
        return filled


@dataclass(frozen=True)
class Story:
    """An alert's way from health through firing to its end.

    The expression `holds` from its first time until its second; the rule's `for` after the first it
    fires. Both are times of evaluations. With `local` there is a second case without the labels
    that only Kubernetes gives. With `loses_targets` there is one in which every target vanishes
    while the alert fires: it ends after `lingers`, the window that it looks back on, or fires for
    that very reason where it `outlasts_targets`.
    """

    alert: str
    what: str
    series: Sequence[Series]
    holds: tuple[str, str]
    labels: Mapping[str, str]
    value: str = ""
    lingers: str = "0s"
    outlasts_targets: bool = False
    local: bool = True
    loses_targets: bool = True
    interval: str = "15s"

    def cases(self) -> Iterator[Case]:
        """Yield the story itself, its local form and its end by the loss of all targets."""
        step = seconds(self.interval)
        onset, over = map(seconds, self.holds)
        hold = hold_of(self.alert)
        checks = (
            Check(Kind.HEALTHY, onset - step),
            Check(Kind.BEFORE_FOR, onset, "pending"),
            Check(Kind.BEFORE_FOR, onset + hold - step, "pending"),
            Check(Kind.FIRES, onset + hold, "firing"),
            Check(Kind.FIRES, over - step, "firing"),
            Check(Kind.RESOLVES, over),
        )
        main = Case(
            alert=self.alert,
            what=self.what,
            series=tuple(self.series),
            checks=checks,
            labels=self.labels,
            interval=self.interval,
            value=self.value,
            with_texts=True,
        )
        yield main
        if self.local:
            yield replace(
                main,
                what=f"{self.what}, outside a cluster",
                series=tuple(one.without(*CLUSTER_LABELS) for one in self.series),
                labels={
                    name: value for name, value in self.labels.items() if name not in CLUSTER_LABELS
                },
                with_texts=False,
            )
        if not self.loses_targets:
            return
        yield replace(
            main,
            what=f"{self.what}, then every target is gone",
            series=tuple(replace(one, wave=one.wave.cut(self._gone_at)) for one in self.series),
            checks=tuple(self._when_gone()),
            with_texts=False,
        )

    @property
    def _gone_at(self) -> int:
        onset, step = seconds(self.holds[0]), seconds(self.interval)
        return onset if self.outlasts_targets else onset + hold_of(self.alert) + step

    def _when_gone(self) -> Iterator[Check]:
        gone, hold, step = self._gone_at, hold_of(self.alert), seconds(self.interval)
        if self.outlasts_targets:
            yield Check(Kind.TARGET_GONE, gone + hold - step, "pending")
            yield Check(Kind.TARGET_GONE, gone + hold, "firing")
            yield Check(Kind.TARGET_GONE, seconds(self.holds[1]), "firing")
        else:
            yield Check(Kind.TARGET_GONE, gone - step, "firing")
            yield Check(Kind.TARGET_GONE, gone + seconds(self.lingers))


@dataclass(frozen=True)
class Silence:
    """Series over which an alert neither fires nor is pending, at any of the times."""

    alert: str
    what: str
    series: Sequence[Series]
    at: tuple[str, ...] = ("20m",)
    kind: Kind = Kind.HEALTHY
    interval: str = "15s"

    def cases(self) -> Iterator[Case]:
        """Yield the one case."""
        yield Case(
            alert=self.alert,
            what=self.what,
            series=tuple(self.series),
            checks=tuple(Check(self.kind, seconds(at)) for at in self.at),
            labels={},
            interval=self.interval,
        )


@dataclass(frozen=True)
class Alarm:
    """Series over which an alert is pending at the first evaluation, and then fires."""

    alert: str
    what: str
    series: Sequence[Series]
    labels: Mapping[str, str]
    over: str = "1h"
    interval: str = "15s"

    def cases(self) -> Iterator[Case]:
        """Yield the one case."""
        hold, step = hold_of(self.alert), seconds(self.interval)
        yield Case(
            alert=self.alert,
            what=self.what,
            series=tuple(self.series),
            checks=(
                Check(Kind.BEFORE_FOR, hold - step, "pending"),
                Check(Kind.FIRES, hold, "firing"),
                Check(Kind.FIRES, seconds(self.over), "firing"),
            ),
            labels=self.labels,
            interval=self.interval,
            with_texts=True,
        )


def hold_of(alert: str) -> int:
    """Return for how many seconds an alert's expression has to hold before it fires."""
    return seconds(ALERTS[alert].hold)


Scenario = Story | Silence | Alarm
