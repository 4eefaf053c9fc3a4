"""A runbook for every alert: linked, true to its alert, its queries and names known."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import environment_names
from monitoring.generate import ROOT
from monitoring.prometheus.source import ALERTS, RULE_FILES
from monitoring.prometheus.source.rule import RUNBOOKS_URL
from monitoring.timings import SERVICES
from tests.monitoring.promql import selectors, unknown_names

RUNBOOKS = ROOT / "docs" / "runbooks"
PAGES = sorted(RUNBOOKS.glob("*.md"))

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)]+)\)")
_CODE = re.compile(r"`([^`]+)`")
_METRIC = re.compile(r"^(?:inference|logging|probe|slo|kubelet)[_:][\w:]+(?:\{.*\})?$")
_SETTING = re.compile(r"^[A-Z]{3,}(?:_[A-Z]+)*$")
_HOLDS = {"30s": "30 seconds", "1m": "1 minute", "1h": "1 hour"}
# What is no setting of ours but looks like one.
_OTHER_CAPITALS = {"SQLITE_BUSY", "SQLITE_IOERR", "VACUUM", "OMP_NUM_THREADS", "POD", "GET"}

of_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def _blocks(page: Path, language: str) -> Iterator[str]:
    for found, text in _FENCE.findall(page.read_text()):
        if found == language:
            yield from text.splitlines()


def _inline_code(page: Path) -> list[str]:
    return _CODE.findall(_FENCE.sub("", page.read_text()))


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {page.stem for page in PAGES} == set(ALERTS)


def test_alerts_link_to_the_pages_of_this_repository() -> None:
    for alert in ALERTS.values():
        path = alert.links["runbook_url"].removeprefix(RUNBOOKS_URL)
        assert (RUNBOOKS / path.removeprefix("/")).is_file()
    assert RUNBOOKS_URL.endswith("/docs/runbooks")


@of_page
def test_it_says_what_its_alert_says(page: Path) -> None:
    alert = ALERTS[page.stem]
    hold = _HOLDS.get(alert.hold, alert.hold.replace("m", " minutes"))
    lines = page.read_text().splitlines()
    assert lines[0] == f"# {alert.name}"
    assert lines[2] == f"Severity {alert.severity}, after {hold}."


@of_page
def test_it_has_all_that_is_needed_at_night(page: Path) -> None:
    text = page.read_text()
    for part in ("**Impact.**", "## First three commands", "## Causes and what to do"):
        assert part in text
    assert text.rpartition("## Over when")[2].strip()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) >= 3  # the heading and two causes


@of_page
def test_it_begins_with_three_commands_for_a_cluster(page: Path) -> None:
    heading, *lines = _blocks(page, "console")
    assert heading.startswith("# in a cluster")
    if "# on one machine" in lines:
        lines = lines[: lines.index("# on one machine")]
    assert len(lines) == 3
    assert all(command.startswith("$ ") for command in lines)


@of_page
def test_its_commands_name_the_namespace_and_objects_of_the_manifests(page: Path) -> None:
    known = {f"deployment/{name}" for name in SERVICES} | {
        f"statefulset/{name}" for name in SERVICES
    }
    for command in _blocks(page, "console"):
        for part in command.split("|"):
            if "kubectl " in part and not re.search(r"(top node|nodes?\b|describe nodes)", part):
                assert re.search(r"-n (mlops|monitoring)\b", part), part
        for name in re.findall(r"\b(?:deployment|statefulset)/[\w-]+", command):
            assert name in known, name


@of_page
def test_its_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve()
        assert path.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, link


@of_page
def test_its_queries_name_metrics_and_labels_that_exist(page: Path) -> None:
    queries = list(_blocks(page, "promql"))
    assert queries
    for query in queries:
        if "scrape_duration_seconds" not in query:  # Prometheus' own, beside `up`
            assert unknown_names(query) == []
        assert selectors(query)


@of_page
def test_the_metrics_it_names_in_passing_exist(page: Path) -> None:
    for code in _inline_code(page):
        if _METRIC.match(code):
            assert unknown_names(code) == []


@of_page
def test_the_settings_it_names_exist(page: Path) -> None:
    known = environment_names(InferenceSettings) | environment_names(LoggingSettings)
    for code in _inline_code(page):
        if _SETTING.match(code.partition("=")[0]):
            assert code.partition("=")[0] in known | _OTHER_CAPITALS, code


def test_a_page_leads_to_the_alert_that_silences_it_or_to_its_cause() -> None:
    linked = {Path(link).stem for page in PAGES for link in _LINK.findall(page.read_text())}
    for alert in ("InferenceModelNotLoaded", "InferenceMlflowUnreachable", "LoggingServiceDown"):
        assert alert in linked


def test_what_is_recorded_has_a_reader() -> None:
    """Each recorded name is read by an alert, a recording, a page or a panel."""
    readers = [rule.expr for file in RULE_FILES for group in file.groups for rule in group.rules]
    readers += [page.read_text() for page in PAGES]
    readers += [path.read_text() for path in (ROOT / "monitoring" / "grafana").rglob("*.py")]
    readers += [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    recorded = {
        recording.record
        for file in RULE_FILES
        for group in file.groups
        for recording in group.recordings
    }
    unread = {name for name in recorded if not any(name in reader for reader in readers)}
    assert not unread
