"""The logging service without BentoML: its parts, put together, and the way of a request."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice

from pydantic import AnyHttpUrl

from bentos.edge.door import Guard, Handler, Route, admit
from bentos.edge.http import Request, Response, ServiceError, json_response
from bentos.edge.tokens import Tokens
from bentos.edge.traces import record_span
from bentos.kit import Kit
from bentos.logging.page import Links, StatusPage
from bentos.logging.request import BatchParser, parse_page_query, parse_stats_query
from bentos.logging.review.page import ReviewPage
from bentos.logging.review.page.heat import HeatMaps
from bentos.logging.review.routes import Review
from bentos.logging.review.store import ReviewStore
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import (
    LOG_PATH,
    PREDICTIONS_PATH,
    SERVICE_NAME,
    STATS_PATH,
    LoggingState,
)
from bentos.logging.store import (
    PageQuery,
    Retention,
    Store,
    StoredPrediction,
    StoreError,
    make_database,
)
from bentos.process.probe_process import ProbePlan

# Of a batch, this many predictions get a span: a client may say that all of them are sampled.
_MAX_TRACED = 100
# Of the time of a request: what waits no longer can still say why.
_OF_TIMEOUT = 0.9
_DATABASE_REASONS = ("database_not_initialized", "database_not_accessible")


class LoggingApp:
    """One worker's parts; `start` and `stop` belong on its event loop."""

    def __init__(self, settings: LoggingSettings, plan: ProbePlan, *, worker: int) -> None:
        self._settings = settings
        token = settings.logging_token
        self._tokens = Tokens(
            token.get_secret_value() if token else None,
            settings.logging_tokens_file,
            realm=SERVICE_NAME,
        )
        self._parser = BatchParser(max_predictions=settings.max_batch_predictions)
        self.kit = Kit(plan, settings, worker=worker)
        self.state: LoggingState = self.kit.state
        self._store = Store(
            make_database(settings, plan.arguments["directory"] if settings.workers > 1 else None),
            self.state,
            queue_rows=settings.write_queue_rows,
            query_timeout_seconds=settings.query_timeout_seconds,
            retention=Retention(settings.retention_days, settings.max_database_bytes),
        )
        self._page = StatusPage(
            self.kit.probes,
            self.state,
            read_page=lambda limit: self._store.page(PageQuery(limit=limit)),
            require_token=self._tokens.require if settings.protect_reads else None,
            inference_probe_url=_text(settings.inference_probe_url),
            links=Links(
                runbooks=str(settings.runbooks_url).rstrip("/"),
                inference_docs=_text(settings.inference_docs_url),
                grafana=_text(settings.grafana_url),
                review=bool(settings.review),
            ),
        )
        self._review = self._make_review() if settings.review else None
        of_review = self._review.routes() if self._review is not None else []
        self.kit.add_routes([*self._routes(), self._page.route(), *of_review])

    def start(self) -> None:
        """Start the background parts; nothing of it waits for the database."""
        self.kit.start()
        self._store.start()
        self._page.start()
        if self._review is not None:
            self._review.start()

    async def stop(self) -> None:
        """Store what waits, close the database, and end the parts."""
        self.state.begin_shutdown()
        await self._page.stop()
        if self._review is not None:
            await self._review.stop()
        await self._store.stop(float(self._settings.shutdown_seconds))
        await self.kit.stop()

    async def log(self, body: bytes, *, request_id: str) -> dict[str, object]:
        """Store the batch that a body brings and return the answer, once it is on disk."""
        refusal = self._store.unavailable()
        if refusal is not None:
            self.state.record_refusal(refusal.reason)
            raise refusal
        received = time.time()
        batch = await self._parser.parse(body, request_id=request_id)
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
        _trace(batch.rows, received)
        return {
            "status": "success",
            "predictions_stored": stored.predictions,
            "duplicates": stored.duplicates,
            "batch_size": len(batch.rows),
            "timestamp": datetime.now(UTC).isoformat(),
            **({"warnings": batch.warnings} if batch.warnings else {}),
        }

    def _routes(self) -> list[Route]:
        check = self._tokens.check
        guard_reads = check if self._settings.protect_reads else admit
        routes: tuple[tuple[str, str, Handler, Guard, Callable[[str], None]], ...] = (
            ("POST", LOG_PATH, self._log, check, self.state.record_error),
            # A read that fails says nothing of whether predictions can be stored.
            ("GET", STATS_PATH, self._stats, guard_reads, self._read_failed),
            ("GET", PREDICTIONS_PATH, self._predictions, guard_reads, self._read_failed),
        )
        return [
            Route(
                method,
                path,
                handler,
                guard=guard,
                on_failure=on_failure,
                on_refusal=self._refused,
                duration=self.state.request_duration[path],
            )
            for method, path, handler, guard, on_failure in routes
        ]

    def _make_review(self) -> Review:
        settings = self._settings
        store = ReviewStore(
            settings.review_directory,
            max_bytes=settings.review_max_bytes,
            retention_days=settings.review_retention_days,
        )
        explain_url, explain_token = _text(settings.explain_url), settings.explain_token
        page = ReviewPage(
            store,
            require_token=self._tokens.require,
            protect_reads=bool(settings.protect_reads),
            heat=HeatMaps(
                store,
                url=explain_url,
                token=explain_token.get_secret_value() if explain_token else None,
                seconds=_OF_TIMEOUT * settings.request_timeout_seconds,
            )
            if explain_url
            else None,
        )
        return Review(
            store,
            self.state,
            self._tokens,
            page,
            max_body_bytes=settings.max_body_bytes,
            protect_reads=bool(settings.protect_reads),
            quality_days=settings.quality_days,
            max_escape_rate=settings.max_escape_rate,
        )

    def _read_failed(self, _reason: str) -> None:
        self.state.errors.add()

    async def _log(self, request: Request) -> Response:
        body = await request.body(self._settings.max_body_bytes)
        answer = await self.log(body, request_id=request.request_id)
        logged = ("predictions_stored", "duplicates", "warnings")
        return json_response(answer, log={key: answer[key] for key in logged if key in answer})

    async def _stats(self, request: Request) -> Response:
        return Response(body=await self._store.stats(parse_stats_query(request.query)))

    async def _predictions(self, request: Request) -> Response:
        return Response(body=await self._store.page(parse_page_query(request.query)))

    def _refused(self, reason: str) -> None:
        # A batch that the database refused is an error, not a refusal; `log` tells them apart.
        if reason not in _DATABASE_REASONS:
            self.state.record_refusal(reason)


def _trace(rows: Sequence[StoredPrediction], received: float) -> None:
    """Record in the trace of each sampled prediction that it is stored now."""
    traced = (row for row in rows if row.traceparent is not None)
    for row in islice(traced, _MAX_TRACED):
        attributes: dict[str, str | float] = {
            "prediction_id": row.prediction_id or "",
            "waited_seconds": round(received - row.timestamp, 6),
        }
        record_span(
            LOG_PATH, str(row.traceparent), start=received, end=time.time(), attributes=attributes
        )


def _text(url: AnyHttpUrl | None) -> str | None:
    return str(url) if url is not None else None
