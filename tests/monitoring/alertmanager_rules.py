"""Alertmanager's configuration read in tests: routes by amtool, inhibitions by their matchers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tests.monitoring.promtool import PROMETHEUS, amtool

CONFIG = PROMETHEUS / "alertmanager.yml"
_MATCHER = re.compile(r'^(\w+)(=~|!~|!=|=)"(.*)"$')

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Matchers:
    """Matchers that all have to hold."""

    texts: tuple[str, ...]

    def match(self, labels: Labels) -> bool:
        """Return whether an alert with these labels matches."""
        return all(_holds(text, labels) for text in self.texts)

    @property
    def alert_names(self) -> set[str]:
        """The patterns that `alertname` is compared with."""
        parsed = (_parse(text) for text in self.texts)
        return {value for name, _, value in parsed if name == "alertname"}


@dataclass(frozen=True)
class Inhibition:
    """What is silenced by what, where the labels in `equal` agree."""

    source: Matchers
    target: Matchers
    equal: tuple[str, ...]

    def silences(self, source: Labels, target: Labels) -> bool:
        """Return whether a firing source silences the target, as Alertmanager decides it."""
        if not (self.source.match(source) and self.target.match(target)):
            return False
        if self.target.match(source) and self.source.match(target):
            return False
        return all(source.get(name, "") == target.get(name, "") for name in self.equal)


def configuration() -> dict[str, Any]:
    """Return the configuration as it is read from its file."""
    return dict(yaml.safe_load(CONFIG.read_text()))


@cache
def inhibitions() -> list[Inhibition]:
    """Return the inhibitions in their order."""
    return [
        Inhibition(
            Matchers(tuple(rule["source_matchers"])),
            Matchers(tuple(rule["target_matchers"])),
            tuple(rule.get("equal", ())),
        )
        for rule in configuration()["inhibit_rules"]
    ]


def receiver_of(labels: Labels) -> str:
    """Return the receiver that an alert is routed to; AssertionError where amtool fails."""
    pairs = [f"{name}={value}" for name, value in labels.items()]
    finished = amtool("config", "routes", "test", f"--config.file={CONFIG}", *pairs)
    assert finished.status == 0, finished.output
    return finished.output.splitlines()[0]


def _parse(text: str) -> tuple[str, str, str]:
    found = _MATCHER.fullmatch(text)
    assert found, f"no matcher: {text}"
    return found[1], found[2], found[3]


def _holds(text: str, labels: Labels) -> bool:
    name, operator, value = _parse(text)
    given = labels.get(name, "")
    if operator in ("=~", "!~"):
        matches = re.fullmatch(value, given) is not None
        return matches if operator == "=~" else not matches
    return (given == value) == (operator == "=")
