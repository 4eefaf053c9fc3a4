"""What must hold of the text that Grafana shows for a panel's values: no number without its unit.

The texts come from Grafana's own code; see tests/monitoring/dashboards_grafana.py.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitoring.catalogue import INFERENCE_FAMILIES, LOGGING_FAMILIES
from tests.monitoring.dashboards_grafana import Shown, shown

Panel = Mapping[str, Any]

TIME_UNITS = frozenset({"s", "dtdurations", "dateTimeFromNow"})
SHARE_UNITS = frozenset({"percentunit"})
BYTE_UNITS = frozenset({"bytes"})
COUNT_UNITS = frozenset({"none", "short", "string"})

# A panel whose title has one of these words shows a value of that kind, and no other.
_WORDS: Sequence[tuple[str, frozenset[str]]] = (
    (r"latency(?! budget)|time (?:of|to|since)|wait for|waited|\bage\b|up since|p99", TIME_UNITS),
    (
        r"ratio|share|rate that|budget left|\bused\b|busy|confidence|of limit|of request",
        SHARE_UNITS,
    ),
    (r"^(?:free space|free disk|availability)$", SHARE_UNITS),
    (r"bytes|size of the|memory$", BYTE_UNITS),
)
# Titles that have a word of another kind than their value, with the reason.
_OTHERWISE = {
    "Latency": SHARE_UNITS,  # the share of requests within the objective
    "Burn rate, latency": COUNT_UNITS,
    "Bytes a prediction": BYTE_UNITS,
    "Latency budget left": SHARE_UNITS,
}
_TEXTS: Sequence[tuple[frozenset[str], str]] = (
    (frozenset({"s"}), r"-?[\d.]+ (?:ns|µs|ms|s|mins?|hours?|days?|weeks?|years?)"),
    (frozenset({"percentunit"}), r"-?[\d.]+%"),
    (frozenset({"bytes"}), r"-?[\d.]+ (?:[KMGT]i)?B"),
    (frozenset({"reqps"}), r"-?[\d.]+ [KMG]? ?req/s"),
    (frozenset({"cps"}), r"-?[\d.]+ [KMG]? ?c/s"),
    (frozenset({"dtdurations"}), r"(?:0|[\d]+) (?:second|minute|hour|day|week|month|year)s?.*"),
    (frozenset({"dateTimeFromNow"}), r".*(?:second|minute|hour|day)s? ago"),
    (frozenset({"bool_yes_no"}), r"Yes|No"),
)
# Gauges that say yes or no, which nobody should have to read as a number.
_YES_OR_NO = frozenset(
    {
        family.name
        for family in (*INFERENCE_FAMILIES, *LOGGING_FAMILIES)
        if family.kind == "gauge" and family.help.startswith("Whether")
    }
    | {"up", "kube_pod_status_ready"}
)
_ONE_OF_ALL = re.compile(r"(?:min|max)(?: by \([^)]*\))? \((\w+)\{[^}]*\}\)")


@dataclass(frozen=True)
class Case:
    """A panel of a dashboard, and values that its queries gave or may give."""

    dashboard: str
    panel: Panel
    values: tuple[float, ...]

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of its values: unit, thresholds, mappings."""
        found: Mapping[str, Any] = self.panel["fieldConfig"]["defaults"]
        return found

    @property
    def thresholds(self) -> list[float]:
        """The thresholds above the base."""
        return [step["value"] for step in self.options["thresholds"]["steps"][1:]]

    @property
    def says_yes_or_no(self) -> bool:
        """Whether its values are zeros and ones that stand for words."""
        if self.panel["type"] == "state-timeline" or self.options["unit"] == "bool_yes_no":
            return True
        if self.options.get("mappings"):
            return True
        found = (_ONE_OF_ALL.fullmatch(target["expr"]) for target in self.panel["targets"])
        return any(match is not None and match[1] in _YES_OR_NO for match in found)


def faults(cases: Sequence[Case]) -> list[str]:
    """Return everything that is wrong with what Grafana shows for the cases."""
    asked = [
        (
            case.options,
            (*case.values, *case.thresholds, *((0.0, 1.0) if case.says_yes_or_no else ())),
        )
        for case in cases
    ]
    units, answers = shown(asked)
    found = []
    for case, (_, values), answer in zip(cases, asked, answers, strict=True):
        texts = dict(zip(values, answer, strict=True))
        found += [
            f"{case.dashboard}: {case.panel['title']}: {fault}"
            for check in CHECKS
            for fault in check(case, texts, units)
        ]
    return found


Check = Callable[[Case, Mapping[float, Shown], frozenset[str]], Iterator[str]]


def _unit_is_known(case: Case, _: Mapping[float, Shown], units: frozenset[str]) -> Iterator[str]:
    if case.options["unit"] not in units:
        yield f"Grafana has no unit {case.options['unit']!r}"
    for override in case.panel["fieldConfig"]["overrides"]:
        for option in override["properties"]:
            if option["id"] == "unit" and option["value"] not in units:
                yield f"Grafana has no unit {option['value']!r}"


def _unit_is_what_the_title_says(
    case: Case, _: Mapping[float, Shown], __: frozenset[str]
) -> Iterator[str]:
    title = case.panel["title"]
    for words, units in _WORDS:
        found = re.search(words, title, flags=re.IGNORECASE)
        expected = _OTHERWISE.get(title, units)
        if found and case.options["unit"] not in expected:
            yield f"its title says {found[0]!r} and its unit is {case.options['unit']!r}"


def _text_has_the_unit(
    case: Case, texts: Mapping[float, Shown], _: frozenset[str]
) -> Iterator[str]:
    if case.options.get("mappings"):
        return
    for units, form in _TEXTS:
        if case.options["unit"] in units:
            for value in case.values:
                if not re.fullmatch(form, texts[value].text):
                    yield f"{value} is shown as {texts[value].text!r}"


def _states_are_words(case: Case, texts: Mapping[float, Shown], _: frozenset[str]) -> Iterator[str]:
    if not case.says_yes_or_no:
        return
    for value in (0.0, 1.0, *case.values):
        if re.search(r"\d", texts[value].text):
            yield f"the state {value} is shown as {texts[value].text!r}"
    if texts[0.0].color == texts[1.0].color:
        yield "both states have one colour"


def _thresholds_are_in_the_unit(
    case: Case, texts: Mapping[float, Shown], _: frozenset[str]
) -> Iterator[str]:
    unit = case.options["unit"]
    highest = case.options.get("max")
    for value in case.thresholds:
        text = texts[value].text
        if unit in SHARE_UNITS and not 0 < value <= 1:
            yield f"the threshold {value} is {text}"
        if unit == "s" and not 0 < value <= 60:
            yield f"the threshold {value} is {text}"
        if highest is not None and value > highest:
            yield f"the threshold {text} is above the greatest value"
        if unit == "none" and value != int(value):
            yield f"the threshold {text} is no count"


def _values_are_in_the_unit(
    case: Case, texts: Mapping[float, Shown], _: frozenset[str]
) -> Iterator[str]:
    """A share above 1 may be percent already, and a time of days may be milliseconds."""
    unit, title = case.options["unit"], case.panel["title"]
    for value in case.values:
        if unit in SHARE_UNITS and value > 1.05 and "of request" not in title:
            yield f"{value} is shown as {texts[value].text!r}"
        if unit == "s" and value > 3_600:
            yield f"{value} is shown as {texts[value].text!r}"


CHECKS: Sequence[Check] = (
    _unit_is_known,
    _unit_is_what_the_title_says,
    _text_has_the_unit,
    _states_are_words,
    _thresholds_are_in_the_unit,
    _values_are_in_the_unit,
)
