"""The routes of the part that keeps pictures and labels, and what it does in the background.

Whatever fails here is counted in metrics of its own: the service's readiness, which is that of
storing predictions, does not depend on it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TypeVar

from bentos.edge.door import Handler, Route
from bentos.edge.http import RETRY_LATER, Request, Response, ServiceError, json_response
from bentos.edge.tokens import Tokens
from bentos.logging.page.access import as_bearer, require_own_page
from bentos.logging.review.labelling import Labelling
from bentos.logging.review.page import HEAT_PATH, PICTURE_PATH, SCRIPT_PATH, ReviewPage
from bentos.logging.review.request import parse_evidence
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

# Bodies are in memory while they wait for the disk.
_MOST_WAITING = 4
_UPKEEP_SECONDS = 10.0
_MEASURE_SECONDS = 15.0
_RETRY_SECONDS = "5"

_logger = get_logger("review")
ResultT = TypeVar("ResultT")


class Review:
    """Takes kept pictures; `start` and `stop` are for the event loop."""

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
        upkeep_seconds: float = _UPKEEP_SECONDS,
    ) -> None:
        self._labelling = Labelling(store, state, max_body_bytes=max_body_bytes, days=quality_days)
        self._page = page
        self._protect_reads = protect_reads
        self._store = store
        self._state = state
        self._tokens = tokens
        self._max_body_bytes = max_body_bytes
        self._upkeep_seconds = upkeep_seconds
        self._waiting = 0
        self._background: list[asyncio.Task[None]] = []
        # Why the store fails, None while it works.
        self.failure: str | None = None
        state.review_capacity_bytes.set(store.max_bytes)
        state.quality_escape_rate_limit.set(max_escape_rate)

    def start(self) -> None:
        """Begin to look after age and size, and to measure."""
        loop = asyncio.get_running_loop()
        self._background = [loop.create_task(self._keep_up()), loop.create_task(self._measure())]

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
        labelling = self._labelling
        return [
            self._route(EVIDENCE_PATH, post=self._evidence),
            self._route(LABELS_PATH, post=labelling.add, get=labelling.labels),
            self._queue_route(),
            self._route(QUALITY_PATH, get=labelling.quality),
            self._page_route(PICTURE_PATH, self._page.picture),
            self._page_route(HEAT_PATH, self._page.heat),
            self._page_route(SCRIPT_PATH, self._page.script),
        ]

    def _queue_route(self) -> Route:
        """Return the route of the queue, which is a page for browsers."""
        queue = self._route(REVIEW_PATH, get=self._labelling.queue)
        page = self._page_route(REVIEW_PATH, self._page.page)

        async def answer(request: Request) -> Response:
            for_people = b"text/html" in (request.header(b"accept") or b"").lower()
            return await (page if for_people else queue).handler(request)

        return replace(queue, handler=answer)

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

    def _route(
        self, path: str, *, post: Handler | None = None, get: Handler | None = None
    ) -> Route:
        handlers = {
            method: self._guarded(path, handler, needs_token=needs_token)
            for method, handler, needs_token in (
                ("POST", post, True),
                ("GET", get, self._protect_reads),
            )
            if handler is not None
        }
        (method, handler), *more = handlers.items()
        return Route(
            method,
            path,
            handler,
            on_failure=lambda _reason: self._state.review_errors["other"].add(),
            on_refusal=self._state.record_refusal,
            more=dict(more),
        )

    def _guarded(self, path: str, handler: Handler, *, needs_token: bool) -> Handler:
        async def guarded(request: Request) -> Response:
            started = time.perf_counter()
            try:
                if needs_token:
                    # Browsers that signed in to the page send their password.
                    require_own_page(request)
                    self._tokens.require(as_bearer(request.header(b"authorization")))
                return await self._tried(handler(request))
            finally:
                self._state.request_duration[path].observe(time.perf_counter() - started)

        return guarded

    async def _evidence(self, request: Request) -> Response:
        body = await request.body(self._max_body_bytes)
        if self._waiting >= _MOST_WAITING:
            raise ServiceError(
                429,
                "queue_full",
                f"{self._waiting} requests with pictures wait to be stored; try again later",
                headers=RETRY_LATER,
            )
        self._waiting += 1
        try:
            # A thread: the digests, and what explains a fault, take longer than others may wait.
            evidence = await asyncio.to_thread(parse_evidence, body)
            added = await self._store.add(evidence)
        finally:
            self._waiting -= 1
        self._state.review_stored.add(added.stored)
        self._state.review_pruned.add(added.pruned)
        answer = {"status": "success", "stored": added.stored, "duplicates": added.duplicates}
        return json_response(answer, log=answer)

    async def _tried(self, work: Awaitable[ResultT]) -> ResultT:
        """Return what the store returns; raises ServiceError 503 where it fails."""
        try:
            result = await work
        except StoreError as failure:
            self._failed(failure)
            raise ServiceError(
                503,
                "review_not_accessible",
                f"nothing was stored, try again: the store of pictures fails: {failure.reason}",
                headers={"Retry-After": _RETRY_SECONDS},
            ) from failure
        self._works()
        return result

    async def _keep_up(self) -> None:
        while True:
            with contextlib.suppress(ServiceError):
                kept = await self._tried(self._store.keep_up())
                self._state.review_pruned.add(kept.pruned)
                self._state.review_pictures.set(kept.pictures)
                self._state.review_bytes.set(kept.bytes)
            await asyncio.sleep(self._upkeep_seconds)

    async def _measure(self) -> None:
        while True:
            try:
                if self._store.exists():
                    await self._tried(self._labelling.measure())
            except ServiceError:
                pass  # counted and logged
            except Exception as error:
                # The metrics stay as they were; the next attempt may succeed.
                event(_logger, logging.ERROR, "the figures cannot be computed", error=error)
            await asyncio.sleep(_MEASURE_SECONDS)

    def _failed(self, failure: StoreError) -> None:
        self._state.review_errors[failure.reason].add()
        if self.failure is None:
            event(_logger, logging.ERROR, f"pictures cannot be stored: {failure.message}")
        self.failure = failure.reason

    def _works(self) -> None:
        if self.failure is not None:
            event(_logger, logging.INFO, "pictures can be stored again")
        self.failure = None
