"""Traces of sampled requests, by OpenTelemetry, configured as BentoML's own: `tracing`.

A request is traced where its client's `traceparent` says so, or without one at BentoML's
`sample_rate`. The decision comes first, so that a request that is not sampled costs nothing:
OpenTelemetry's middleware would record it all the same, for a third of the rate.

https://www.w3.org/TR/trace-context/ is where `traceparent` is described.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from random import getrandbits
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bentos.edge.http import AsgiApp, Receive, Request, Scope, Send

_SCOPE = "bentos"
# An id of zeros is none.
_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_LOW_64_BITS = (1 << 64) - 1
_NO_SPAN = nullcontext(INVALID_SPAN)

# The trace id of the request that runs now, 0 where it is not sampled. Asking OpenTelemetry takes
# ten times as long, and every request asks four times.
_trace_id: ContextVar[int] = ContextVar("trace_id", default=0)


class SampledTraces:
    """Traces sampled requests to an ASGI app, and hands the others to it as they are.

    `options` are those of OpenTelemetry's middleware, with BentoML's tracer provider, which
    becomes the process's own.
    """

    def __init__(self, app: AsgiApp, options: Mapping[str, Any]) -> None:
        provider: TracerProvider = options["tracer_provider"]
        provider.id_generator = _ChosenTraceIds()
        trace.set_tracer_provider(provider)
        # As OpenTelemetry's sampler compares the lower half of a trace id.
        self._bound = TraceIdRatioBased.get_bound_for_rate(sample_rate(options))
        self._app = app
        # A span for each ASGI message says nothing more and costs as much as the rest.
        self._traced = OpenTelemetryMiddleware(
            _SpanWithRequestId(app), **options, exclude_spans=["receive", "send"]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, in a span of its own where it is sampled."""
        sampled = scope["type"] == "http" and self._is_sampled(scope)
        await (self._traced if sampled else self._app)(scope, receive, send)

    def _is_sampled(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
                trace_id = int(match[1], 16)
                sampled = bool(int(match[2], 16) & TraceFlags.SAMPLED)
                break
        else:
            trace_id = getrandbits(128)
            sampled = trace_id & _LOW_64_BITS < self._bound
        if sampled:
            # Every request has a context of its own, which ends with it.
            _trace_id.set(trace_id)
        return sampled


class _ChosenTraceIds(RandomIdGenerator):  # type: ignore[misc]  # is of type Any in its package
    """Begins the trace for which the decision was made."""

    def generate_trace_id(self) -> int:
        return _trace_id.get() or int(super().generate_trace_id())


class _SpanWithRequestId:
    """Writes the request's id into the span around it."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = Request(scope, receive).request_id
        trace.get_current_span().set_attribute("request_id", request_id)
        # Later readers of the request find the same id.
        scope["headers"] = [*scope["headers"], (b"x-request-id", request_id.encode())]
        await self._app(scope, receive, send)


def sample_rate(options: Mapping[str, Any]) -> float:
    """Return the share of requests without a `traceparent` that is traced, 0 to 1."""
    description = options["tracer_provider"].sampler.get_description()
    found = re.search(r"TraceIdRatioBased\{([^}]*)\}", description)
    return float(found[1]) if found else 1.0


def traceparent() -> str | None:
    """Return the `traceparent` of what runs now; None where it is not sampled."""
    if not _trace_id.get():
        return None
    context = trace.get_current_span().get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def trace_id() -> str | None:
    """Return the id of the trace that what runs now belongs to; None where it is not sampled."""
    own = _trace_id.get()
    return f"{own:032x}" if own else None


def span(name: str) -> AbstractContextManager[Span]:
    """Make a `with` block a span of the request's trace, where that is sampled."""
    if not _trace_id.get():
        return _NO_SPAN
    started: AbstractContextManager[Span] = trace.get_tracer(_SCOPE).start_as_current_span(name)
    return started


def record_span(
    name: str, parent: str, *, start: float, end: float, attributes: Mapping[str, str | float]
) -> None:
    """Record that something of another service's trace was done from `start` to `end`.

    `parent` is a `traceparent`, times are Unix seconds. One that is malformed or not sampled is
    ignored. The span links to the request that did it, where that is sampled as well.
    """
    context = TraceContextTextMapPropagator().extract({"traceparent": parent})
    if not trace.get_current_span(context).get_span_context().trace_flags.sampled:
        return
    own = trace.get_current_span().get_span_context()
    made = trace.get_tracer(_SCOPE).start_span(
        name,
        context,
        SpanKind.CONSUMER,
        attributes=dict(attributes),
        links=[Link(own)] if own.trace_flags.sampled else [],
        start_time=int(start * 1e9),
    )
    made.end(int(end * 1e9))
