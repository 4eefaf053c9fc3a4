"""The routes of kept pictures, labels and figures, and what goes on in the background.

Whatever fails here is counted in metrics of its own: the service's readiness, which is that of
storing predictions, does not depend on it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec
from msgspec.structs import asdict

from bentos.edge.door import Handler, Route, admit
from bentos.edge.http import RETRY_LATER, Request, Response, ServiceError
from bentos.edge.tokens import Tokens
from bentos.logging.page.access import as_bearer, require_own_page
from bentos.logging.review.figures import Figures
from bentos.logging.review.labels import (
    Filters,
    add_labels,
    count_waiting,
    read_labels,
    read_queue,
)
from bentos.logging.review.page import HEAT_PATH, PICTURE_PATH, SCRIPT_PATH, ReviewPage
from bentos.logging.review.quality import (
    Quality,
    QualityQuery,
    estimate_versions,
    exposed,
    read_versions,
)
from bentos.logging.review.request import (
    parse_evidence,
    parse_labels,
    parse_labels_query,
    parse_quality_query,
    parse_queue_query,
)
from bentos.logging.review.store import ReviewStore
from bentos.logging.state import (
    EVIDENCE_PATH,
    LABELS_PATH,
    QUALITY_PATH,
    REVIEW_PATH,
    LoggingState,
)
from bentos.logging.store.errors import StoreError
from bentos.process.logs import event, get_logger

# Requests that may wait for the disk; their bodies are in memory meanwhile.
_MOST_EVIDENCE = 4
_MOST_LABELS = 16
_LABEL_TYPES = (b"application/json", b"text/csv")
# Figures are computed anew once something was stored, and after this time in any case: pictures
# leave the window by age alone.
_FIGURES_SECONDS = 600.0
_UPKEEP_SECONDS = 10.0
_MEASURE_SECONDS = 15.0
_RETRY_SECONDS = "5"

_logger = get_logger("review")
_encode = msgspec.json.encode
ResultT = TypeVar("ResultT")


class Review:
    """Takes pictures and labels, and tells what they come to; `start` and `stop` on the event loop.

    `quality_days` are those of figures for which a request names none, and of the metrics.
    """

    def __init__(
        self,
        store: ReviewStore,
        state: LoggingState,
        tokens: Tokens,
        page: ReviewPage,
        *,
        max_body_bytes: int,
        protect_reads: bool,
        quality_days: float,
        max_escape_rate: float,
    ) -> None:
        self._page = page
        self._protect_reads = protect_reads
        self._store = store
        self._state = state
        self._tokens = tokens
        self._max_body_bytes = max_body_bytes
        self._days = quality_days
        self._evidence_slots = asyncio.Semaphore(_MOST_EVIDENCE)
        self._label_slots = asyncio.Semaphore(_MOST_LABELS)
        # A processor is busy for a second with the figures of 100,000 pictures.
        self._estimating = asyncio.Lock()
        self._seen: tuple[object, ...] = ()
        self._estimated_at = float("-inf")
        self._background: list[asyncio.Task[None]] = []
        # It is said in the log when the store begins to fail, and when it works again.
        self._failing = False
        state.review_capacity_bytes.set(store.max_bytes)
        state.quality_escape_rate_limit.set(max_escape_rate)

    def start(self) -> None:
        """Begin to look after age and size, and to measure."""
        loop = asyncio.get_running_loop()
        self._background = [
            loop.create_task(self._repeat(_UPKEEP_SECONDS, self._keep_up)),
            loop.create_task(self._repeat(_MEASURE_SECONDS, self._measure)),
        ]

    async def stop(self) -> None:
        """Finish what was begun."""
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        await self._page.close()
        await self._store.stop()

    def routes(self) -> list[Route]:
        """Return the routes: writes are guarded as `/log` is, reads as `/predictions` is."""
        return [
            self._route("POST", EVIDENCE_PATH, self._add_evidence),
            self._route("POST", LABELS_PATH, self._add_labels),
            self._route("GET", LABELS_PATH, self._labels),
            self._queue_route(),
            self._route("GET", QUALITY_PATH, self._quality),
            self._page_route(PICTURE_PATH, self._page.picture),
            self._page_route(HEAT_PATH, self._page.heat),
            self._page_route(SCRIPT_PATH, self._page.script),
        ]

    def _queue_route(self) -> Route:
        """Return the route of the queue, which is a page for browsers."""
        queue = self._route("GET", REVIEW_PATH, self._queue)
        page = self._page_route(REVIEW_PATH, self._page.page)

        def asked(request: Request) -> Route:
            for_people = b"text/html" in (request.header(b"accept") or b"").lower()
            return page if for_people else queue

        async def answer(request: Request) -> Response:
            return await asked(request).handler(request)

        return replace(queue, handler=answer, guard=lambda request: asked(request).guard(request))

    def _page_route(self, path: str, handler: Handler) -> Route:
        """Return a route that people look at: it asks browsers for the token by itself.

        What it refuses is counted nowhere: who is asked for a password is not turned away.
        """

        async def answer(request: Request) -> Response:
            try:
                return await self._tried(handler(request))
            except ServiceError as error:
                return error.response()

        return Route("GET", path, answer)

    def _route(self, method: str, path: str, handler: Handler) -> Route:
        async def answer(request: Request) -> Response:
            return await self._tried(handler(request))

        return Route(
            method,
            path,
            answer,
            guard=self._check if method == "POST" or self._protect_reads else admit,
            on_failure=lambda _reason: self._state.review_errors["other"].add(),
            on_refusal=self._state.record_refusal,
            duration=self._state.request_duration[path],
        )

    def _check(self, request: Request) -> None:
        # Browsers that signed in to the page send their password.
        require_own_page(request)
        self._tokens.require(as_bearer(request.header(b"authorization")))

    async def _add_evidence(self, request: Request) -> Response:
        """Store the pictures of a body, all or none."""
        body = await request.body(self._max_body_bytes)
        async with _slot(self._evidence_slots, "pictures"):
            # A thread: the digests, and what explains a fault, take longer than others may wait.
            evidence = await asyncio.to_thread(parse_evidence, body)
            added = await self._store.add(evidence)
        self._state.review_stored.add(added.answer.stored)
        self._state.review_pruned.add(added.pruned)
        return Response(_encode(added.answer), log=asdict(added.answer))

    async def _add_labels(self, request: Request) -> Response:
        """Store the labels of a body, all or none."""
        if request.content_type not in _LABEL_TYPES:
            # A page of another site can make a browser send any other type.
            raise ServiceError(
                415, "bad_input", "set Content-Type to application/json, or to text/csv for a file"
            )
        body = await request.body(self._max_body_bytes)
        async with _slot(self._label_slots, "labels"):
            # A thread: a large file takes as long as thousands of predictions.
            labels = await asyncio.to_thread(parse_labels, body, request.content_type)
            at = time.time()
            added = await self._store.write(
                lambda connection: add_labels(connection, labels, at=at)
            )
        self._state.labels_stored.add(added.labels)
        return Response(_encode(added), log=asdict(added))

    async def _labels(self, request: Request) -> Response:
        """Return a page of labels, oldest first."""
        after, limit = parse_labels_query(request.query)
        page = await self._store.read(
            lambda connection: read_labels(connection, after=after, limit=limit)
        )
        return Response(_encode(page))

    async def _queue(self, request: Request) -> Response:
        """Return pictures that wait for a label, in the order in which to look at them."""
        filters, skip, limit = parse_queue_query(request.query)
        page = await self._store.read(
            lambda connection: read_queue(connection, filters, skip=skip, limit=limit)
        )
        return Response(_encode(page))

    async def _quality(self, request: Request) -> Response:
        """Return the figures by model version."""
        query = parse_quality_query(request.query, days=self._days)
        figures = await self._figures(query)
        return Response(_encode(Quality(query.days, query.edge_device_id, figures)))

    async def _figures(self, query: QualityQuery) -> Sequence[Figures]:
        async with self._estimating:
            versions = await self._store.read(
                lambda connection: read_versions(connection, query, now=time.time())
            )
            return await asyncio.to_thread(estimate_versions, versions)

    async def _tried(self, work: Awaitable[ResultT]) -> ResultT:
        """Return what the store returns; raises ServiceError 503 where it fails."""
        try:
            result = await work
        except StoreError as failure:
            self._state.review_errors[failure.reason].add()
            if not self._failing:
                event(_logger, logging.ERROR, f"pictures cannot be stored: {failure.message}")
            self._failing = True
            raise ServiceError(
                503,
                "review_not_accessible",
                f"nothing was stored, try again: the store of pictures fails: {failure.reason}",
                headers={"Retry-After": _RETRY_SECONDS},
            ) from failure
        if self._failing:
            event(_logger, logging.INFO, "pictures can be stored again")
        self._failing = False
        return result

    async def _repeat(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await self._tried(work())
            except ServiceError:
                pass  # counted and logged
            except Exception as error:
                # The metrics stay as they were; the next attempt may succeed.
                event(_logger, logging.ERROR, "upkeep, or the figures, failed", error=error)
            await asyncio.sleep(seconds)

    async def _keep_up(self) -> None:
        """Delete what is too old or too much, and set the metrics of what is kept."""
        kept = await self._store.keep_up()
        self._state.review_pruned.add(kept.pruned)
        self._state.review_pictures.set(kept.pictures)
        self._state.review_bytes.set(kept.bytes)

    async def _measure(self) -> None:
        """Set the metrics: how many pictures wait, and the figures where there is news."""
        if not self._store.exists():
            return
        waiting, seen = await self._store.read(
            lambda connection: (
                count_waiting(connection, Filters()),
                tuple(
                    connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608
                    for table in ("labels", "evidence")
                ),
            )
        )
        self._state.review_waiting.set(waiting)
        late = time.monotonic() - self._estimated_at > _FIGURES_SECONDS
        if seen != self._seen or late:
            self._state.tell_figures(exposed(await self._figures(QualityQuery(self._days))))
            self._seen, self._estimated_at = seen, time.monotonic()


@contextlib.asynccontextmanager
async def _slot(slots: asyncio.Semaphore, what: str) -> AsyncIterator[None]:
    """Hold one of the places of requests that wait for the disk; ServiceError 429 for none."""
    if slots.locked():
        raise ServiceError(
            429,
            "queue_full",
            f"too many requests with {what} wait to be stored; try again later",
            headers=RETRY_LATER,
        )
    async with slots:
        yield
