"""An OTLP collector over HTTP, and BentoML's settings that send traces to it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.http_server import Answer, HttpServer, Request
from tests.support.servers import wait_until


@dataclass(frozen=True)
class CollectedSpan:
    """A span that arrived: ids as hexadecimal digits, times in Unix seconds."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    end: float
    attributes: dict[str, Any]


class Collector:
    """Keeps the spans that it gets."""

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.server = HttpServer(self._take)
        self.url = f"{self.server.url}/v1/traces"

    def _take(self, request: Request) -> Answer:
        for of_resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            resource = _attributes(of_resource.resource)
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    found = CollectedSpan(
                        service=str(resource.get("service.name", "")),
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        start=span.start_time_unix_nano / 1e9,
                        end=span.end_time_unix_nano / 1e9,
                        attributes=_attributes(span),
                    )
                    self.spans.append(found)
        return Answer()

    def wait_for(self, matches: Callable[[CollectedSpan], bool]) -> CollectedSpan:
        """Return the first span that matches, as soon as there is one."""

        def found() -> list[CollectedSpan]:
            return [one for one in list(self.spans) if matches(one)]

        wait_until(lambda: bool(found()), "the span", describe=lambda: str(self.spans))
        return found()[0]

    def tracing(self, *, sample_rate: float) -> dict[str, object]:
        """Return the section `tracing` of BentoML's settings that sends spans here."""
        return {
            "exporter_type": "otlp",
            "sample_rate": sample_rate,
            "otlp": {"protocol": "http", "endpoint": self.url},
        }


def _attributes(holder: Any) -> dict[str, Any]:
    found = {}
    for one in holder.attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind) if kind else None
    return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that runs for the block."""
    collector = Collector()
    with collector.server:
        yield collector


def bentoml_settings(directory: Path, **settings: object) -> dict[str, str]:
    """Write a configuration file of BentoML's and return the variables that name it."""
    path = directory / "bentoml.yaml"
    path.write_text(json.dumps({"services": settings}))
    return {"BENTOML_CONFIG": str(path), "OTEL_BSP_SCHEDULE_DELAY": "200"}
