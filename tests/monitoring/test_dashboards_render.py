"""The renderer fills in variables and writes numbers as Grafana does, and knows every panel."""

import math
import time
from pathlib import Path

import pytest

from monitoring.grafana.render.__main__ import main
from monitoring.grafana.render.client import Period, Prometheus, QueryError
from monitoring.grafana.render.figure import DRAWS
from monitoring.grafana.render.interpolation import built_in, interpolate, pattern, rate_interval
from monitoring.grafana.render.units import write
from tests.monitoring.dashboards import PANELS_WITH_QUERIES
from tests.support.servers import free_port


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (0.00005, "s", "50 µs"),
        (90, "s", "1.50 mins"),
        (0, "s", "0 s"),
        (0.123, "percentunit", "12.3%"),
        (1, "percentunit", "100%"),
        (1536, "bytes", "1.50 KiB"),
        (0, "bytes", "0 B"),
        (3 * 2**30, "bytes", "3 GiB"),
        (12_345, "short", "12.3 K"),
        (999, "short", "999"),
        (-2_500_000, "short", "-2.50 Mil"),
        (52.13, "reqps", "52.1 req/s"),
        (3, "none", "3"),
        (math.nan, "s", "NaN"),
        (math.inf, "s", "∞"),
        (7200, "dtdurations", "2 hours"),
        (1, "bool_yes_no", "Yes"),
    ],
)
def test_numbers_are_written_in_their_unit(value: float, unit: str, text: str) -> None:
    assert write(value, unit) == text


def test_decimals_are_kept_where_they_are_asked_for() -> None:
    assert write(1, "percentunit", decimals=2) == "100.00%"


def test_a_moment_is_told_as_time_from_now() -> None:
    assert write((time.time() - 7300) * 1000, "dateTimeFromNow") == "2 hours ago"


@pytest.mark.parametrize(
    ("step", "scrape", "expected"), [(15, 15, 60), (60, 15, 75), (1, 1, 4), (300, 15, 315)]
)
def test_rates_are_taken_over_four_scrapes_or_a_step_and_a_scrape(
    step: float, scrape: float, expected: float
) -> None:
    assert rate_interval(step, scrape) == expected


def test_built_in_variables_are_durations_of_promql() -> None:
    period = Period(1_000.0, 4_600.0, 15.0)
    query = "rate(a[$__rate_interval]) + increase(a[${__range}]) + b[$__interval]"
    values = built_in(period, 15)
    assert interpolate(query, values) == "rate(a[60s]) + increase(a[3600s]) + b[15s]"


def test_a_variable_without_a_value_is_refused() -> None:
    with pytest.raises(KeyError):
        interpolate('up{job=~"$jobb"}', {"job": ".+"})


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (["a"], "a"),
        (["a", "b"], "(a|b)"),
        (["10.0.0.1:8000"], r"10\\.0\\.0\\.1:8000"),
        (["a+b", "c"], r"(a\\+b|c)"),
    ],
)
def test_chosen_values_are_matched_literally(chosen: list[str], expected: str) -> None:
    assert pattern(chosen) == expected


def test_every_kind_of_panel_with_queries_can_be_drawn() -> None:
    assert DRAWS.keys() == PANELS_WITH_QUERIES


def test_a_prometheus_that_is_away_is_an_error_with_its_url(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert main(["--prometheus", url, "--out", str(tmp_path)]) == 1
    assert url in capsys.readouterr().err
    with pytest.raises(QueryError):
        Prometheus(url).instant("up", 0)


@pytest.mark.parametrize("arguments", [["--last", "1x"], ["--dashboard", "none"]])
def test_wrong_options_are_refused(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--out", str(tmp_path)])
    assert exit_.value.code == 2
