"""The logging service without BentoML: its parts, put together, and the way of a request."""

import asyncio
import gc
import hmac
import sqlite3
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bentos.health import checks
from bentos.edge.limits import BodyRoom
from bentos.health.checks import Check
from bentos.edge.door import Door, Handler, Route, route_table
from bentos.edge.http import Request, Response, ServiceError, json_response
from bentos.process.lifecycle import Lifecycle
from bentos.health.metrics import EVENT_LOOP_DELAY
from bentos.health.probes import Probes, isoformat
from bentos.logging.exposition import LoggingMetrics
from bentos.logging.failures import StoreError
from bentos.logging.metrics import LOG_PATH, PREDICTIONS_PATH, STATS_PATH
from bentos.logging.payloads import Batch, parse_batch
from bentos.logging.queries import PageQuery, read_page, read_stats
from bentos.logging.reader import Reader
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import LoggingState
from bentos.logging.store import Store
from bentos.logging.turns import Turns

SERVICE_NAME = "logging-service"
# The oldest proof that still counts: a check a second, and one that may wait for a lock.
_PROOF_AGE_SECONDS = 3.0
_SWITCH_INTERVAL_SECONDS = 0.0005
_LARGE_BODY_BYTES = 4_096
_DATABASE_REASONS = ("database_not_initialized", "database_not_accessible")


class LoggingApp:
    """One worker's parts; `start` and `stop` belong on its event loop."""

    def __init__(self, settings: LoggingSettings, *, worker: int, directory: Path) -> None:
        self._settings = settings
        token = settings.logging_token
        self._parsing = asyncio.Lock()
        self._token = f"Bearer {token.get_secret_value()}".encode() if token else None
        self.state = LoggingState(
            directory,
            worker=worker,
            workers=settings.workers,
            window_seconds=settings.error_window_seconds,
        )
        self._metrics = LoggingMetrics(
            directory / "metrics",
            self.state,
            service=SERVICE_NAME,
            database_path=settings.database_path,
        )
        self._reader = Reader(
            settings.database_path,
            timeout_seconds=settings.query_timeout_seconds,
            on_failure=self._reading_failed,
        )
        self._store = Store(
            settings.database_path,
            self.state,
            self._metrics,
            self._reader,
            busy_timeout_seconds=settings.busy_timeout_seconds,
            queue_rows=settings.write_queue_rows,
            turns=Turns(directory) if settings.workers > 1 else None,
        )
        self.probes = Probes(
            service=SERVICE_NAME,
            state=self.state,
            metrics=self._metrics,
            liveness=self._liveness(),
            readiness=self._readiness(),
            describe=self._describe,
        )
        self._metrics.feed_readiness(self.probes.readiness_verdict)
        self._lifecycle = Lifecycle(
            self.state,
            self.probes.readiness_verdict,
            liveness=self.probes.live,
            drain_seconds=settings.drain_seconds,
            shutdown_seconds=settings.shutdown_seconds,
            on_beat=self._metrics.histograms[EVENT_LOOP_DELAY.name].labels(SERVICE_NAME).observe,
        )
        self.door = Door(
            service=SERVICE_NAME,
            routes=route_table([*self.probes.routes(), *self._routes()]),
            metrics=self._metrics,
            timeout_seconds=settings.request_timeout_seconds,
            room=BodyRoom(settings.max_bodies_bytes_a_worker),
        )

    def start(self) -> None:
        """Start the background parts; nothing of it waits for the database."""
        # The default, 5 ms, is how long a probe would wait for a writer that is busy in Python.
        sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
        # What was imported stays: a collection that walks it stops everything for 100 ms.
        gc.collect()
        gc.freeze()
        self._metrics.reserve()
        self._lifecycle.start()
        self._store.start()

    async def stop(self) -> None:
        """Store what waits, close the database, and end the parts."""
        self.state.begin_shutdown()
        await self._store.stop(float(self._settings.shutdown_seconds))
        self._reader.close()
        await self._lifecycle.stop()

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
                self._metrics.requested(path, time.perf_counter() - started)

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
        if not self.state.row.get("db_initialized"):
            refusal = self._store.unavailable()
            if refusal is not None:
                raise refusal
        return Response(body=await self._reader.read(query))

    def _reading_failed(self, failure: StoreError) -> None:
        self.state.record_store_error(failure.reason)
        self.state.record_error("store_failure")
        if failure.lost:
            self._store.doubt(failure)

    def _refused(self, reason: str) -> None:
        # A batch that the database refused is an error, not a refusal; `log` tells them apart.
        if reason not in _DATABASE_REASONS:
            self.state.record_refusal(reason)

    def _liveness(self) -> list[Check]:
        settings = self._settings
        return [
            checks.worker_dead(self.state, grace_seconds=settings.worker_grace_seconds),
            checks.event_loop_stalled(self.state, stall_seconds=settings.stall_seconds),
            # A writer that waits for a hanging disk is none: a restart would wait there too.
            checks.unless("writer_dead", lambda: self._store.alive),
        ]

    def _readiness(self) -> list[Check]:
        return [
            checks.shutting_down(self.state),
            checks.worker_missing(self.state),
            checks.unless("database_not_initialized", lambda: self.state.db_initialized),
            checks.unless(
                "database_not_accessible", self._accessible, why=self._why_not_accessible
            ),
            checks.high_error_rate(self.state),
        ]

    def _accessible(self) -> bool:
        return self.state.db_accessible and self.state.db_proof_age_seconds < _PROOF_AGE_SECONDS

    def _why_not_accessible(self) -> dict[str, object]:
        state = self.state
        return {
            "database_failure": state.db_failure or "no_answer",
            "database_proof_age_seconds": round(state.db_proof_age_seconds, 1),
            "transaction_seconds": round(state.transaction_seconds, 1),
        }

    def _describe(self) -> dict[str, object]:
        state = self.state
        return {
            "db_initialized": state.db_initialized,
            "predictions_logged": state.prediction_count,
            "defects_detected": state.defect_count,
            "errors": state.error_count,
            "last_prediction": isoformat(state.last_prediction_time),
        }
