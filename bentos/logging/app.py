"""The logging service without BentoML: its parts, put together, and the way of a request."""

import asyncio
import hmac
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from bentos.edge.door import Door, Handler, Route
from bentos.edge.http import Request, Response, ServiceError, json_response
from bentos.health.probes import Probes
from bentos.kit import Kit
from bentos.logging.failures import StoreError
from bentos.logging.payloads import Batch, parse_batch
from bentos.logging.queries import PageQuery, read_page, read_stats
from bentos.logging.reader import Reader
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import (
    LOG_PATH,
    PREDICTIONS_PATH,
    SERVICE_NAME,
    STATS_PATH,
    LoggingState,
)
from bentos.logging.store import Store
from bentos.logging.turns import Turns
from bentos.process.probe_process import ProbePlan

_SWITCH_INTERVAL_SECONDS = 0.0005
_LARGE_BODY_BYTES = 4_096
_DATABASE_REASONS = ("database_not_initialized", "database_not_accessible")


class LoggingApp:
    """One worker's parts; `start` and `stop` belong on its event loop."""

    def __init__(self, settings: LoggingSettings, plan: ProbePlan, *, worker: int) -> None:
        self._settings = settings
        token = settings.logging_token
        self._parsing = asyncio.Lock()
        self._token = f"Bearer {token.get_secret_value()}".encode() if token else None
        self._kit = Kit(plan, settings, worker=worker)
        self.state: LoggingState = self._kit.state
        self._reader = Reader(
            settings.database_path,
            timeout_seconds=settings.query_timeout_seconds,
            on_failure=self._reading_failed,
        )
        self._store = Store(
            settings.database_path,
            self.state,
            self._reader,
            busy_timeout_seconds=settings.busy_timeout_seconds,
            queue_rows=settings.write_queue_rows,
            turns=Turns(plan.arguments["directory"]) if settings.workers > 1 else None,
        )
        self._kit.add_routes(self._routes())

    @property
    def door(self) -> Door:
        """What answers the service's own routes."""
        return self._kit.door

    def add_routes(self, routes: Sequence[Route]) -> None:
        """Answer these routes as well."""
        self._kit.add_routes(routes)

    @property
    def probes(self) -> Probes:
        """What the service's probes answer."""
        return self._kit.probes

    def start(self) -> None:
        """Start the background parts; nothing of it waits for the database."""
        # The default, 5 ms, is how long a request would wait for a writer that is busy in Python.
        sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
        self._kit.start()
        self._store.start()

    async def stop(self) -> None:
        """Store what waits, close the database, and end the parts."""
        self.state.begin_shutdown()
        await self._store.stop(float(self._settings.shutdown_seconds))
        self._reader.close()
        await self._kit.stop()

    async def log(self, body: bytes, *, request_id: str) -> dict[str, object]:
        """Store the batch that a body brings and return the answer, once it is on disk."""
        refusal = self._store.unavailable()
        if refusal is not None:
            self.state.record_refusal(refusal.reason)
            raise refusal
        batch = await self._parse(body, request_id=request_id)
        try:
            stored = await self._store.store(batch.rows)
        except StoreError as failure:
            raise ServiceError(
                503,
                "database_not_accessible",
                f"nothing of the batch was stored, send it again: the database fails:"
                f" {failure.reason}",
                headers={"Retry-After": "2"},
            ) from failure
        return {
            "status": "success",
            "predictions_stored": stored.predictions,
            "duplicates": stored.duplicates,
            "batch_size": len(batch.rows),
            "timestamp": datetime.now(UTC).isoformat(),
        }

    async def _parse(self, body: bytes, *, request_id: str) -> Batch:
        limit = self._settings.max_batch_predictions
        if len(body) < _LARGE_BODY_BYTES:
            return await parse_batch(body, max_predictions=limit, request_id=request_id)
        # Clients that were answered together send their next batches together. Each gives way to
        # the event loop once while the others wait for it, so that no probe waits for all of them.
        async with self._parsing:
            await asyncio.sleep(0)
            return await parse_batch(body, max_predictions=limit, request_id=request_id)

    def _routes(self) -> list[Route]:
        routes = (
            ("POST", LOG_PATH, self._log, True),
            ("GET", STATS_PATH, self._stats, self._settings.protect_reads),
            ("GET", PREDICTIONS_PATH, self._page, self._settings.protect_reads),
        )
        return [
            Route(
                method,
                path,
                self._timed(path, self._guarded(handler) if protected else handler),
                on_failure=self.state.record_error,
                on_refusal=self._refused,
            )
            for method, path, handler, protected in routes
        ]

    def _timed(self, path: str, handler: Handler) -> Handler:
        async def timed(request: Request) -> Response:
            started = time.perf_counter()
            try:
                return await handler(request)
            finally:
                self.state.request_duration[path].observe(time.perf_counter() - started)

        return timed

    def _guarded(self, handler: Handler) -> Handler:
        token = self._token
        if token is None:
            return handler

        async def guarded(request: Request) -> Response:
            if not hmac.compare_digest(request.header(b"authorization") or b"", token):
                raise ServiceError(
                    401,
                    "unauthorized",
                    "the Authorization header has to be 'Bearer ' and the token (LOGGING_TOKEN)",
                    headers={"WWW-Authenticate": f'Bearer realm="{SERVICE_NAME}"'},
                )
            return await handler(request)

        return guarded

    async def _log(self, request: Request) -> Response:
        body = await request.body(self._settings.max_body_bytes)
        answer = await self.log(body, request_id=request.request_id)
        return json_response(
            answer,
            log={"predictions": answer["predictions_stored"], "duplicates": answer["duplicates"]},
        )

    async def _stats(self, _: Request) -> Response:
        return await self._read(read_stats)

    async def _page(self, request: Request) -> Response:
        query = PageQuery.parse(request.query)
        return await self._read(lambda connection: read_page(connection, query))

    async def _read(self, query: Callable[[sqlite3.Connection], bytes]) -> Response:
        if not self.state.db_initialized.get():
            refusal = self._store.unavailable()
            if refusal is not None:
                raise refusal
        return Response(body=await self._reader.read(query))

    def _reading_failed(self, failure: StoreError) -> None:
        self.state.store_errors[failure.reason].add()
        self.state.record_error()
        if failure.lost:
            self._store.doubt(failure)

    def _refused(self, reason: str) -> None:
        # A batch that the database refused is an error, not a refusal; `log` tells them apart.
        if reason not in _DATABASE_REASONS:
            self.state.record_refusal(reason)
