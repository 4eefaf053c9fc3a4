"""The status page without a server: what it says of states, who sees what, and what it costs."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bentos.edge.http import Response, ServiceError
from bentos.edge.tokens import Tokens
from bentos.inference.settings import InferenceSettings
from bentos.inference.state import inference_probes
from bentos.logging.page import Links, StatusPage, words
from bentos.logging.page.rate import MINUTES, SAMPLE_SECONDS, MinuteCounts
from bentos.logging.page.reasons import DATABASE_FAILURES, explain, is_known
from bentos.logging.page.services import InferenceProbe
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import STORE_ERROR_REASONS, LoggingState, logging_probes
from monitoring.prometheus.source.rule import RUNBOOKS_URL
from tests.support.pages import ask, basic, text_of

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-reads"
# 2026-11-25T12:00:00Z
NOON = 1_795_608_000.0


def stored(**changes: Any) -> dict[str, Any]:
    """Return a prediction as a page of `/predictions` has it, changed."""
    return {
        "timestamp": NOON,
        "edge_device_id": "line-4",
        "model_name": "steel-defects",
        "model_version": "3",
        "image_id": "17.png",
        "defect_detected": True,
        "detections": [{"class": "crack", "confidence": 0.973, "bbox": None}],
        "confidence_scores": [0.973, 0.027],
        **changes,
    }


class House:
    """A page of a service that does not run, and what its database would answer."""

    def __init__(self, folder: Path, *, token: str | None = None, url: str | None = None) -> None:
        plan = logging_probes(LoggingSettings(), folder)
        probes = plan.probes(worker=1)
        assert isinstance(probes.state, LoggingState)
        self.state = probes.state
        self.rows: list[dict[str, Any]] = []
        self.reads = 0
        self.read: Callable[[int], Awaitable[bytes]] = self._rows
        tokens = Tokens(token, None, realm="test")
        self.page = StatusPage(
            probes,
            self.state,
            read_page=self._read,
            require_token=tokens.require if token else None,
            inference_probe_url=url,
            links=Links(runbooks="https://example.com/runbooks", grafana="http://grafana:3000/"),
        )

    async def _read(self, limit: int) -> bytes:
        self.reads += 1
        return await self.read(limit)

    async def _rows(self, limit: int) -> bytes:
        rows = self.rows[:limit]
        return json.dumps({"predictions": rows, "count": len(rows), "next": None}).encode()

    async def ask(self, query: str = "", authorization: str = "") -> Response:
        """Return the page's answer, an error's as well."""
        return await ask(self.page.answer, query, authorization=authorization)

    def text(self, query: str = "", authorization: str = "") -> str:
        """Return what a person reads on the page, without its marks."""
        return text_of(asyncio.run(self.ask(query, authorization)).body.decode())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def every_reason(folder: Path) -> list[tuple[str, str]]:
    plans = {
        "Inference": inference_probes(InferenceSettings(), folder / "inference"),
        "Logging": logging_probes(LoggingSettings(), folder / "logging"),
    }
    return [
        (kind, check.reason)
        for kind, plan in plans.items()
        for check in (*plan.liveness, *plan.readiness)
    ] + [(kind, "exception") for kind in plans]


def test_every_reason_that_the_services_declare_is_put_in_words(tmp_path: Path) -> None:
    for kind, reason in every_reason(tmp_path):
        assert is_known(reason), f"{kind}: explain {reason} in bentos/logging/page/reasons.py"


def test_every_way_in_which_the_database_fails_is_put_in_words() -> None:
    assert set(DATABASE_FAILURES) == {*STORE_ERROR_REASONS, "no_answer"}


def test_every_explanation_leads_to_a_runbook_that_exists(tmp_path: Path) -> None:
    more = ["not_reachable", "dead_letters", "a reason of a later version"]
    reasons = [*every_reason(tmp_path), *(("Inference", reason) for reason in more)]
    for kind, reason in reasons:
        found = explain(reason, kind)  # type: ignore[arg-type]
        assert found.sentence.endswith(".")
        if found.runbook:
            assert (ROOT / "docs" / "runbooks" / f"{found.runbook}.md").exists(), reason


def test_runbooks_are_linked_where_alerts_link_them() -> None:
    assert str(LoggingSettings().runbooks_url) == RUNBOOKS_URL


def test_a_database_that_is_not_open_is_told_with_its_runbook(house: House) -> None:
    body = asyncio.run(house.ask()).body.decode()
    assert "The database has not been opened yet." in body
    assert 'href="https://example.com/runbooks/LoggingDatabaseNotInitialized.md"' in body
    assert "<h1>The logging service is not ready</h1>" in body


def test_a_database_that_fails_is_told_with_the_cause(house: House) -> None:
    house.state.database_works()
    house.state.database_fails("full")
    assert "The database does not answer" in house.text()
    assert "Its disk is full." in house.text()


def test_a_service_that_nobody_named_is_told_as_not_configured(house: House) -> None:
    text = house.text()
    assert "Inference service not configured" in text
    assert "INFERENCE_PROBE_URL" in text
    assert "unknown waiting in the outbox" in text


def test_an_empty_database_is_told(house: House) -> None:
    assert "No prediction is stored yet." in house.text()


def test_predictions_are_shown_with_class_confidence_device_and_time(house: House) -> None:
    house.rows = [stored(), stored(defect_detected=False, detections=[])]
    text = house.text()
    assert re.search(r"25 Nov 12:00|2026-11-25 12:00|12:00:00", text)
    assert "crack defect 97.3% line-4 steel-defects 3 17.png" in text
    assert "nothing detected line-4" in text


def test_a_prediction_that_a_person_should_look_at_is_marked(house: House) -> None:
    house.rows = [stored(verdict="review"), stored(verdict=None), stored(verdict="fail")]
    assert house.text().count("crack defect review 97.3%") == 1


def test_the_page_runs_no_script_and_asks_no_other_host(house: House) -> None:
    answer = asyncio.run(house.ask())
    policy = dict(answer.headers)[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in policy
    assert "unsafe" not in policy
    body = answer.body.decode()
    assert not re.search(r"<(script|img|iframe|object|form)|\bon\w+=|style=", body)
    assert re.findall(r'(?:src|<link[^>]*href)="([^"]+)"', body) == ["data:,"]


def secured(folder: Path) -> House:
    """Return a page of which the predictions need a token."""
    house = House(folder, token=TOKEN)
    house.rows = [stored()]
    return house


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", basic(TOKEN)])
def test_a_bearer_token_or_a_password_shows_predictions(tmp_path: Path, header: str) -> None:
    house = secured(tmp_path)
    assert "line-4" in house.text(authorization=header)
    text = house.text()
    for secret in ("line-4", "crack", "steel-defects", "17.png", TOKEN):
        assert secret not in text


@pytest.mark.parametrize("header", ["Bearer wrong", basic("wrong"), "Basic ???", "Basic", "x"])
def test_a_wrong_token_shows_none_and_may_be_a_proxys(tmp_path: Path, header: str) -> None:
    house = secured(tmp_path)
    assert "line-4" not in house.text(authorization=header)
    asked = asyncio.run(house.ask("sign-in", header))
    assert asked.status == 401
    assert dict(asked.headers)[b"www-authenticate"].startswith(b"Basic realm=")


def test_it_refreshes_itself_unless_it_is_told_not_to(house: House) -> None:
    def refresh(query: str) -> list[str]:
        body = asyncio.run(house.ask(query)).body.decode()
        return re.findall(r'http-equiv="refresh" content="(\d+)"', body)

    assert refresh("") == ["10"]
    assert refresh("refresh=60") == ["60"]
    assert refresh("refresh=0") == []


@pytest.mark.parametrize("value", ["", "-1", "x", "11", "1e1", "9" * 100, "٦٠"])
def test_a_wrong_refresh_is_a_400_that_names_it(house: House, value: str) -> None:
    answer = asyncio.run(house.ask(f"refresh={value}"))
    assert (answer.status, json.loads(answer.body)["field"]) == (400, "refresh")


def test_all_who_look_at_once_share_one_look_at_the_database(house: House) -> None:
    async def crowd() -> None:
        answers = await asyncio.gather(*(house.ask() for _ in range(50)))
        assert {answer.status for answer in answers} == {200}
        await house.ask()

    asyncio.run(crowd())
    assert house.reads == 1


def test_a_database_that_hangs_keeps_nobody_waiting(house: House) -> None:
    async def never(limit: int) -> bytes:
        await asyncio.sleep(3_600)
        return b""

    house.read = never
    assert "The database takes too long to answer." in house.text()


@pytest.mark.parametrize(("status", "says"), [(503, "is not accessible"), (504, "is too busy")])
def test_a_database_that_refuses_is_told(house: House, status: int, says: str) -> None:
    async def refuse(limit: int) -> bytes:
        raise ServiceError(status, "a_reason", "a message")

    house.read = refuse
    assert says in house.text()


async def _serve_once(answer: bytes, *, silent: bool) -> tuple[asyncio.Server, str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if silent:
            await reader.read()  # until the client has gone
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "silent", "state"),
    [
        (b"", True, "not reachable"),
        (b"", False, "not reachable"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nhi", False, "not understood"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", False, "not understood"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000, False, "not understood"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"status": "\xe3"}', False, "not understood"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"more": ' + b"[" * 200_000, False, "not understood"),
    ],
    ids=["silent", "closes", "404", "other JSON", "too large", "no UTF-8", "nested"],
)
def test_a_neighbour_that_does_not_answer_as_it_should_is_told(
    answer: bytes, silent: bool, state: str
) -> None:
    async def ask() -> str:
        server, url = await _serve_once(answer, silent=silent)
        async with server:
            probe = InferenceProbe(url, seconds=0.5)
            view = await probe.view(now=NOON)
            await probe.close()
            assert view.problems[0].sentence
            assert view.level == "bad"
            server.close()
            return view.state

    assert asyncio.run(asyncio.wait_for(ask(), 30)) == state


def test_a_password_in_the_address_of_the_neighbour_is_not_shown() -> None:
    probe = InferenceProbe("http://me:secret@127.0.0.1:9", seconds=5.0)
    view = asyncio.run(probe.view(now=NOON))
    assert view.state == "not reachable"
    assert "secret" not in str(view)


@pytest.mark.parametrize("name", ["GRAFANA_URL", "INFERENCE_DOCS_URL", "RUNBOOKS_URL"])
@pytest.mark.parametrize("value", ["javascript:alert(1)", "http://me:secret@grafana:3000", "x"])
def test_a_link_that_is_no_address_or_has_a_password_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name.lower()):
        LoggingSettings()


class TestMinutes:
    def test_what_came_is_counted_in_its_minute(self) -> None:
        now, counted = 0.0, 100.0
        minutes = MinuteCounts(lambda: counted, clock=lambda: now)
        for minute in range(3):
            for _ in range(12):
                counted += minute + 1
                minutes.sample()
                now += SAMPLE_SECONDS
        found = minutes.minutes()
        assert len(found.counts) == MINUTES
        assert found.total == counted - 100.0
        # The running five seconds are the last of the last minute.
        assert found.counts[-3:] == (13, 25, 33)
        assert (found.now, found.most) == (33, 33)

    def test_minutes_before_the_start_are_unknown_and_not_zero(self) -> None:
        minutes = MinuteCounts(lambda: 0.0, clock=lambda: 0.0)
        found = minutes.minutes()
        assert (found.watched, found.counts[0], found.counts[-1]) == (1, None, 0)

    def test_an_hour_is_kept_and_no_more(self) -> None:
        now, counted = 0.0, 0.0
        minutes = MinuteCounts(lambda: counted, clock=lambda: now)
        for _ in range(2 * MINUTES * 12):
            counted += 1
            minutes.sample()
            now += SAMPLE_SECONDS
        assert (minutes.minutes().watched, minutes.minutes().total) == (60, 60 * 12 - 1)

    def test_a_pause_of_days_leaves_empty_minutes(self) -> None:
        now, counted = 0.0, 0.0
        minutes = MinuteCounts(lambda: counted, clock=lambda: now)
        now, counted = 1e7, 5.0
        found = minutes.minutes()
        assert (found.now, found.total, found.watched) == (5, 5, 60)


def test_numbers_and_times_are_written_as_people_read_them() -> None:
    assert words.count(12_034.0) == "12,034"
    assert [words.size(size) for size in (0, 999, 1_000, 3.44e9, 9.96e5, 5e15)] == [
        *("0 B", "999 B", "1.0 kB", "3.4 GB", "996 kB", "5000 TB")
    ]
    assert [words.duration(seconds) for seconds in (0, 59, 60, 7_300, 200_000)] == [
        *("0 s", "59 s", "1 min", "2 h", "2 d")
    ]
    assert words.moment(NOON, now=NOON + 60) == "12:00:00"
    assert words.moment(NOON, now=NOON + 86_400) == "25 Nov 12:00"
    assert words.moment(NOON, now=NOON + 86_400 * 60) == "2026-11-25 12:00"
    assert words.ago(NOON + 7_200, now=NOON) == "2 h ahead of this clock"
    assert words.seconds_of("2026-11-25T12:00:00+00:00") == NOON
    assert words.seconds_of("yesterday") is None
    assert words.shorten("a" * 9, 5) == "aaaa…"
