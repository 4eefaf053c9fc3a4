"""The status page: both services, the model and the last predictions, for people with a browser.

It is rendered here, needs no script and asks no other host for anything. What it shows is taken
together at most once in CACHE_SECONDS, whoever looks, and each part has a short time-out, so a page
neither keeps a person waiting nor the service from its work. Of the modules `services` says what
the services say of themselves, `reasons` puts it in words, `rate` counts minutes, `predictions`
reads rows, and `words` writes numbers and times. `html` and `access` are for other pages as well.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

import msgspec

from bentos.edge.door import Route
from bentos.edge.http import Request, Response, ServiceError
from bentos.health.probes import Probes
from bentos.logging.page import words
from bentos.logging.page.access import is_allowed, sign_in
from bentos.logging.page.html import HtmlPage
from bentos.logging.page.neighbour import decode_answer
from bentos.logging.page.predictions import SHOWN, ShownPrediction, read_predictions
from bentos.logging.page.rate import SAMPLE_SECONDS, MinuteCounts, Minutes
from bentos.logging.page.services import (
    ASK_SECONDS,
    LOGGING,
    InferenceProbe,
    ReadyAnswer,
    ServiceView,
    view_of,
)
from bentos.logging.state import LoggingState
from bentos.process.logs import event, get_logger

CACHE_SECONDS = 2.0
# After how many seconds a browser may ask again, the first by itself; 0 is never.
REFRESH_SECONDS = (10, 60, 0)
_FOLDER = Path(__file__).parent

_logger = get_logger("page")


@dataclass(frozen=True)
class Links:
    """Where the page's links lead, as people's browsers reach it; None for no link."""

    runbooks: str
    inference_docs: str | None = None
    grafana: str | None = None
    review: bool = False

    def runbook(self, name: str) -> str:
        """Return the address of a runbook."""
        return f"{self.runbooks}/{name}.md"


@dataclass(frozen=True)
class _Snapshot:
    """What all who look within CACHE_SECONDS are shown, and the pages made of it so far."""

    taken: float
    seconds: float
    services: Sequence[ServiceView]
    minutes: Minutes
    predictions: Sequence[ShownPrediction]
    failure: str
    pages: dict[tuple[bool, int], bytes] = field(default_factory=dict)


class StatusPage:
    """Answers `GET /`; `start` and `stop` belong on the event loop.

    `read_page` returns the newest predictions, at most as many as it is asked for, as a page of
    `/predictions`. `require_token` raises ServiceError 401 for an Authorization header that does
    not allow to read them; it is None where everybody may.
    """

    def __init__(
        self,
        probes: Probes,
        state: LoggingState,
        *,
        read_page: Callable[[int], Awaitable[bytes]],
        require_token: Callable[[bytes | None], None] | None,
        inference_probe_url: str | None,
        links: Links,
    ) -> None:
        self._probes = probes
        self._state = state
        self._read_page = read_page
        self._require_token = require_token
        self._links = links
        self._inference = InferenceProbe(inference_probe_url)
        self._minutes = MinuteCounts(lambda: state.predictions.value)
        self._html = HtmlPage(_FOLDER, "status", "img-src data:", "form-action 'none'")
        self._snapshot: _Snapshot | None = None
        self._taking: asyncio.Task[_Snapshot] | None = None
        self._sampling: asyncio.Task[None] | None = None

    def route(self) -> Route:
        """Return the route of the page. What fails here says nothing of the service's work."""
        return Route("GET", "/", self.answer)

    def start(self) -> None:
        """Begin to count the minutes."""
        self._sampling = asyncio.get_running_loop().create_task(self._sample())

    async def stop(self) -> None:
        """End what runs in the background."""
        for task in (self._sampling, self._taking):
            if task is not None:
                task.cancel()
        await self._inference.close()

    async def answer(self, request: Request) -> Response:
        """Return the page, with the last predictions for those who may read them.

        With `sign-in` a browser without a token asks for one. Raises ServiceError 401 for that, and
        400 for a wrong parameter.
        """
        query = parse_qs(request.query.decode("latin-1"), keep_blank_values=True)
        refresh = _refresh(query.get("refresh"))
        allowed = self._require_token is None or is_allowed(self._require_token, request)
        if "sign-in" in query and not allowed:
            raise sign_in("the last predictions")
        snapshot = await self._fresh_snapshot()
        key = (allowed, refresh)
        if key not in snapshot.pages:
            snapshot.pages[key] = self._render(snapshot, allowed=allowed, refresh=refresh)
        return self._html.response(snapshot.pages[key])

    async def _fresh_snapshot(self) -> _Snapshot:
        known = self._snapshot
        if known is not None and time.monotonic() - known.taken < CACHE_SECONDS:
            return known
        if self._taking is None or self._taking.done():
            self._taking = asyncio.get_running_loop().create_task(self._take())
        # A reader that gives up leaves it to the others.
        return await asyncio.shield(self._taking)

    async def _take(self) -> _Snapshot:
        now = time.time()
        inference, (predictions, failure) = await asyncio.gather(
            self._inference.view(now=now), self._last_predictions()
        )
        services = (inference, self._own_view(now))
        self._snapshot = _Snapshot(
            time.monotonic(), now, services, self._minutes.minutes(), predictions, failure
        )
        return self._snapshot

    async def _last_predictions(self) -> tuple[Sequence[ShownPrediction], str]:
        """Return the last predictions, or none and why."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                page = await self._read_page(SHOWN)
            return read_predictions(page), ""
        except TimeoutError:
            return (), "The database takes too long to answer."
        except ServiceError as error:
            slow = error.status in (429, 504)
            what = "is too busy to answer" if slow else "is not accessible"
            return (), f"The database {what}."
        except msgspec.DecodeError as error:
            event(_logger, logging.ERROR, "stored predictions cannot be read", error=error)
            return (), "The stored predictions cannot be read; the log says why."

    def _own_view(self, now: float) -> ServiceView:
        state = self._state
        last = state.last_prediction_at.value
        stored, defects = words.count(state.predictions.value), words.count(state.defects.value)
        bytes_used = state.database_bytes.value + state.wal_bytes.value
        # A database on a server has no disk that could be looked at from here.
        free = words.size(state.disk_free_bytes.value) if state.disk_size_bytes.value else ""
        facts = [
            ("Stored", f"{stored} since its start, {defects} with a defect"),
            ("Last stored", words.since(last, now=now) if last else "none yet"),
        ]
        if bytes_used:
            facts.append(
                (
                    "Database",
                    words.size(bytes_used) + (f", {free} free on its disk" if free else ""),
                )
            )
        facts.append(("Running since", words.since(state.pod.started_at, now=now)))
        return view_of(
            LOGGING, "Logging", decode_answer(self._probes.ready().body, ReadyAnswer), *facts
        )

    def _render(self, snapshot: _Snapshot, *, allowed: bool, refresh: int) -> bytes:
        inference = snapshot.services[0].answer
        levels = [service.level for service in snapshot.services]
        return self._html.render(
            title=_headline(snapshot.services),
            level="bad" if "bad" in levels else "good",
            now=snapshot.seconds,
            refresh=refresh,
            default_refresh=REFRESH_SECONDS[0],
            services=snapshot.services,
            links=self._links,
            minutes=snapshot.minutes,
            scale=_scale(snapshot.minutes.most),
            backlog=inference.log_backlog if inference else None,
            dead_letters=inference.log_dead_letters if inference else None,
            allowed=allowed,
            predictions=snapshot.predictions if allowed else (),
            failure=snapshot.failure,
        )

    async def _sample(self) -> None:
        while True:
            self._minutes.sample()
            await asyncio.sleep(SAMPLE_SECONDS)


def _headline(services: Sequence[ServiceView]) -> str:
    wrong = [service for service in services if service.level == "bad"]
    if len(wrong) > 1:
        return "Both services need attention"
    if wrong:
        return f"The {wrong[0].title.lower()} is {wrong[0].state}"
    if all(service.level == "good" for service in services):
        return "Both services are ready"
    return "The logging service is ready"


def _scale(most: int) -> int:
    """Return a round number, 1, 2 or 5 with zeros, that is not smaller."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if step * factor >= most:
                return step * factor
        step *= 10


def _refresh(given: list[str] | None) -> int:
    """Return the seconds after which a browser asks again, 0 for never."""
    if given is None:
        return REFRESH_SECONDS[0]
    choices = {str(seconds): seconds for seconds in REFRESH_SECONDS}
    if given[0] in choices:
        return choices[given[0]]
    raise ServiceError(
        400, "bad_input", f"refresh: expected one of {', '.join(choices)} seconds", field="refresh"
    )
