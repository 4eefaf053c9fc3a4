"""Labels, the queue of pictures that wait for one, and the figures, as requests ask for them."""

import asyncio
import time
from collections.abc import Sequence

from bentos.edge.http import RETRY_LATER, Request, Response, ServiceError, json_response
from bentos.logging.request import (
    bad_field,
    parse_device,
    parse_flag,
    parse_limit,
    parse_parameters,
)
from bentos.logging.review.labels import add_labels, parse_labels, read_labels
from bentos.logging.review.quality import (
    QualityQuery,
    VersionFigures,
    estimate_versions,
    exposed,
    quality_answer,
    read_versions,
)
from bentos.logging.review.queue import Filters, count_waiting, read_queue
from bentos.logging.review.store import ReviewStore
from bentos.logging.state import LoggingState

_MEDIA_TYPES = (b"application/json", b"text/csv")
_VERDICTS = ("pass", "fail", "review")
_LABELS_PAGE = "100"
_QUEUE_PAGE = "20"
_MOST_DAYS = 3_650
_MOST_ID = 2**63 - 1
# Requests whose bodies wait for the disk.
_MOST_WAITING = 16
# Figures are computed anew once something was stored, and after this time in any case: pictures
# leave the window by age alone.
_FIGURES_SECONDS = 600.0


class Labelling:
    """Answers `/labels`, `/review` and `/quality`; all raise ServiceError and StoreError.

    `days` are those of figures for which a request names none, and of the metrics.
    """

    def __init__(
        self, store: ReviewStore, state: LoggingState, *, max_body_bytes: int, days: float
    ) -> None:
        self._store = store
        self._state = state
        self._max_body_bytes = max_body_bytes
        self._days = days
        self._waiting = 0
        # A processor is busy for a second with the figures of 100,000 pictures.
        self._estimating = asyncio.Lock()
        self._seen: tuple[object, ...] = ()
        self._estimated_at = float("-inf")

    async def add(self, request: Request) -> Response:
        """Store the labels of a body, all or none."""
        if request.content_type not in _MEDIA_TYPES:
            # A page of another site can make a browser send any other type.
            raise ServiceError(
                415, "bad_input", "set Content-Type to application/json, or to text/csv for a file"
            )
        body = await request.body(self._max_body_bytes)
        if self._waiting >= _MOST_WAITING:
            raise ServiceError(
                429,
                "queue_full",
                f"{self._waiting} requests with labels wait to be stored; try again later",
                headers=RETRY_LATER,
            )
        self._waiting += 1
        try:
            # A thread: a large file takes as long as thousands of predictions.
            labels = await asyncio.to_thread(parse_labels, body, request.content_type)
            at = time.time()
            added = await self._store.write(
                lambda connection: add_labels(connection, labels, at=at)
            )
        finally:
            self._waiting -= 1
        self._state.labels_stored.add(added.labels)
        answer = {
            "status": "success",
            "labels": added.labels,
            "unknown": added.unknown,
            "new_classes": added.new_classes,
        }
        return json_response(answer, log=answer)

    async def labels(self, request: Request) -> Response:
        """Return a page of labels, oldest first."""
        query = parse_parameters(request.query, "after", "limit")
        after = _number("after", query.get("after", "0"), _MOST_ID)
        limit = parse_limit(query.get("limit", _LABELS_PAGE))
        return json_response(
            await self._store.read(
                lambda connection: read_labels(connection, after=after, limit=limit)
            )
        )

    async def queue(self, request: Request) -> Response:
        """Return pictures that wait for a label, in the order in which to look at them."""
        names = ("limit", "skip", "model_version", "edge_device_id", "verdict", "differ")
        query = parse_parameters(request.query, *names)
        limit = parse_limit(query.get("limit", _QUEUE_PAGE))
        skip = _number("skip", query.get("skip", "0"), 1_000_000)
        if query.get("verdict", "pass") not in _VERDICTS:
            raise bad_field("verdict", "pass, fail or review", query["verdict"])
        filters = Filters(
            parse_device("model_version", query) or "",
            parse_device("edge_device_id", query) or "",
            query.get("verdict", ""),
            differ=parse_flag("differ", query),
        )
        return json_response(
            await self._store.read(
                lambda connection: read_queue(connection, filters, skip=skip, limit=limit)
            )
        )

    async def quality(self, request: Request) -> Response:
        """Return the figures by model version."""
        values = parse_parameters(request.query, "days", "model_version", "edge_device_id")
        query = QualityQuery(
            _days(values["days"]) if "days" in values else self._days,
            parse_device("model_version", values),
            parse_device("edge_device_id", values),
        )
        return json_response(quality_answer(query, await self._figures(query)))

    async def measure(self) -> None:
        """Set the metrics: how many pictures wait, and the figures where there is news."""
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

    async def _figures(self, query: QualityQuery) -> Sequence[VersionFigures]:
        async with self._estimating:
            versions = await self._store.read(
                lambda connection: read_versions(connection, query, now=time.time())
            )
            return await asyncio.to_thread(estimate_versions, versions)


def _number(name: str, text: str, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not 0 <= number <= most:
        raise bad_field(name, f"a whole number from 0 to {most}", text)
    return number


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= _MOST_DAYS:
        raise bad_field("days", f"a number above 0 and at most {_MOST_DAYS}", text)
    return days
