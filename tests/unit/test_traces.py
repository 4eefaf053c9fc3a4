"""Which requests are traced, decided once and before anything else."""

import asyncio
import sys
from collections.abc import Mapping
from contextvars import Context
from types import FrameType
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from bentos.edge.http import Receive, Scope, Send
from bentos.edge.traces import SampledTraces, span, trace_id, traceparent

_TRACE = "0af7651916cd43dd8448eb211c80319c"
_NEVER, _ALWAYS = 1e-18, 1.0


class Traced:
    """What an app behind SampledTraces finds, and which functions of OpenTelemetry's are called."""

    def __init__(self, rate: float) -> None:
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(rate)))
        self._app = SampledTraces(self._answer, {"tracer_provider": provider})
        self.found: Mapping[str, str | None] = {}
        self.calls: list[str] = []

    def request(self, *headers: tuple[bytes, bytes]) -> None:
        """Answer a request in a context of its own, as a server does."""
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
        Context().run(asyncio.run, self._profiled(scope))

    async def _profiled(self, scope: Scope) -> None:
        async def send(_: Any) -> None: ...

        async def receive() -> Any: ...

        sys.setprofile(self._note)
        try:
            await self._app(scope, receive, send)
        finally:
            sys.setprofile(None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        with span("model") as of_model:
            of_model.set_attributes({"batch_size": 1})
        self.found = {"traceparent": traceparent(), "trace_id": trace_id()}
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def _note(self, frame: FrameType, what: str, _: object) -> None:
        code = frame.f_code
        if what == "call" and "opentelemetry" in code.co_filename:
            self.calls.append(code.co_qualname)


@pytest.mark.parametrize(
    "sent",
    [
        None,
        f"00-{_TRACE}-b7ad6b7169203331-00",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{_TRACE}-{'0' * 16}-01",
    ],
    ids=["none", "not-sampled", "no-trace", "no-span"],
)
def test_a_request_that_is_not_sampled_calls_nothing_of_opentelemetry(sent: str | None) -> None:
    traced = Traced(_NEVER)
    traced.request(*([(b"traceparent", sent.encode())] if sent else []))

    assert traced.found == {"traceparent": None, "trace_id": None}
    # A span that records nothing takes its attributes.
    assert set(traced.calls) <= {"NonRecordingSpan.set_attributes"}


def test_a_request_that_its_client_samples_goes_on_with_its_trace() -> None:
    traced = Traced(_NEVER)
    traced.request((b"traceparent", f"00-{_TRACE}-b7ad6b7169203331-01".encode()))

    assert traced.found["trace_id"] == _TRACE
    assert str(traced.found["traceparent"]).startswith(f"00-{_TRACE}-")


def test_a_request_that_the_rate_samples_begins_a_trace_with_the_id_that_was_decided_on() -> None:
    traced = Traced(_ALWAYS)
    traced.request()

    assert traced.found["trace_id"]
    assert str(traced.found["traceparent"]).startswith(f"00-{traced.found['trace_id']}-")
