"""A service's API page: its OpenAPI document (spec.openapis.org, 3.1) and a page that shows it.

BentoML's own page knows only its POST routes, and asks a host on the internet for a script. This
one asks no other host for anything: Swagger UI's files come from BentoML's package.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from types import UnionType
from typing import Any, get_args

import msgspec
from msgspec import inspect
from pydantic import TypeAdapter

from bentos.edge.door import Route
from bentos.edge.http import Request, Response, json_response
from bentos.health.probes import HEALTH_PATH, METRICS_PATH, READY_PATH
from bentos.messages import held_type
from bentos.process.probe_process import ProbePlan

DOCS_PATH = "/docs"
DOCUMENT_PATH = "/docs.json"
JSON = "application/json"

_SCHEMAS = "#/components/schemas/"
_ERROR = {
    "type": "object",
    "required": ["error", "reason"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong, and the remedy."},
        "reason": {"type": "string", "description": "The same as one word, for programs."},
        "field": {"type": "string", "description": "The field or item at fault, where one is."},
    },
}
# What an error of a status most often gives as its reason, for examples.
_USUAL_REASONS = {
    400: "bad_input",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    410: "picture_deleted",
    413: "too_large",
    415: "bad_input",
    422: "model_rejected_input",
    429: "queue_full",
    500: "internal_error",
    503: "shutting_down",
    504: "timeout",
}
_UNAUTHORIZED = {401: ("A token is required, and this is none that is valid now.", None)}
# Swagger UI would ask a host on the internet whether the document is valid, and show its answer as
# a picture.
_SCRIPT = (
    f'SwaggerUIBundle({{url: ".{DOCUMENT_PATH}", dom_id: "#page", deepLinking: true,'
    " validatorUrl: null, defaultModelsExpandDepth: 0});"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{title}</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="./static_content/swagger-ui.css">
  </head>
  <body>
    <div id="page"><noscript>{description} The document itself: <a href=".{document}">
      {document}</a></noscript></div>
    <script src="./static_content/swagger-ui-bundle.js"></script>
    <script>{script}</script>
  </body>
</html>
"""


def source_hash(content: str) -> str:
    """Return how a Content-Security-Policy names an inline script or style by its content."""
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


# Swagger UI writes styles into its elements and draws its icons from data.
_PAGE_POLICY = "; ".join(
    (
        *("default-src 'none'", "connect-src 'self'", "img-src 'self' data:"),
        *("style-src 'self' 'unsafe-inline'", f"script-src 'self' {source_hash(_SCRIPT)}"),
        *("base-uri 'none'", "form-action 'none'"),
    )
)


@dataclass(frozen=True)
class Content:
    """A body of one media type and an example of it.

    `schema` is a type, of msgspec's or one that pydantic knows, or a union of them; or a JSON
    Schema, where no type says it.
    """

    media_type: str
    schema: Any
    example: object = None


def parameter(
    name: str, kind: str, description: str = "", *, where: str = "query"
) -> Mapping[str, object]:
    """Describe a parameter of JSON type `kind` in the query, the path or a header."""
    described: dict[str, object] = {"name": name, "in": where, "schema": {"type": kind}}
    if description:
        described["description"] = description
    return {**described, "required": True} if where == "path" else described


@dataclass(frozen=True)
class Operation:
    """What one route takes and answers; `answers` maps each status to its text and body.

    An answer without a body of its own is an error in the one shape that all errors have. A
    `protected` route has a 401 as well. `tag` is the heading under which the page shows it.
    """

    method: str
    path: str
    summary: str
    description: str = ""
    body: Sequence[Content] = ()
    parameters: Sequence[Mapping[str, object]] = ()
    answers: Mapping[int, tuple[str, Content | None]] = field(default_factory=dict)
    protected: bool = False
    tag: str = "Predictions"


@dataclass(frozen=True)
class ApiPage:
    """The operations of a service under a title; the probes are added to them.

    `ready` is what `/ready` says beside its verdict: a TypedDict, and an example of it. `at_root`
    shows the page at `/` too.
    """

    title: str
    version: str
    description: str
    operations: Sequence[Operation]
    ready: Content | None = None
    at_root: bool = True

    def routes(self, plan: ProbePlan) -> list[Route]:
        """Return the routes of the document and of the page that shows it."""
        document = json_response(self.document(plan))
        page = _PAGE.format(
            title=escape(self.title),
            description=escape(self.description),
            document=DOCUMENT_PATH,
            script=_SCRIPT,
        )
        shown = Response(
            page.encode(),
            content_type=b"text/html; charset=utf-8",
            headers=((b"content-security-policy", _PAGE_POLICY.encode()),),
        )

        def route(path: str, answer: Response) -> Route:
            async def handler(_: Request) -> Response:
                return answer

            return Route("GET", path, handler)

        pages = (DOCS_PATH, "/") if self.at_root else (DOCS_PATH,)
        return [route(DOCUMENT_PATH, document), *(route(path, shown) for path in pages)]

    def document(self, plan: ProbePlan) -> dict[str, object]:
        """Return the OpenAPI document; `plan` says which reasons the probes may give."""
        schemas: dict[str, Any] = {"Error": _ERROR}
        paths: dict[str, dict[str, object]] = {}
        for operation in [*self.operations, *_probes(plan, self.ready, schemas)]:
            described = _describe(operation, schemas)
            paths.setdefault(operation.path, {})[operation.method.lower()] = described
        return {
            "openapi": "3.1.0",
            "info": {
                "title": self.title,
                "version": self.version,
                "description": self.description,
            },
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }


def _describe(operation: Operation, schemas: dict[str, Any]) -> dict[str, object]:
    answers = {**operation.answers, **(_UNAUTHORIZED if operation.protected else {})}
    described: dict[str, object] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "operationId": f"{operation.method.lower()}{operation.path.replace('/', '_')}",
        "responses": {
            str(status): {
                "description": text,
                "content": _media([body or _error(text, _USUAL_REASONS[status])], schemas),
            }
            for status, (text, body) in sorted(answers.items())
        },
    }
    if operation.body:
        described["requestBody"] = {"required": True, "content": _media(operation.body, schemas)}
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.protected:
        described["security"] = [{"token": []}, {}]
    return described


def _error(text: str, reason: str) -> Content:
    return Content(JSON, {"$ref": f"{_SCHEMAS}Error"}, {"error": text, "reason": reason})


def _media(bodies: Sequence[Content], schemas: dict[str, Any]) -> dict[str, object]:
    media: dict[str, object] = {}
    for body in bodies:
        schema = _schema(body.schema, schemas)
        media[body.media_type] = {"schema": schema}
        if body.example is not None:
            media[body.media_type] = {
                "schema": schema,
                "example": msgspec.to_builtins(body.example),
            }
    return media


def _schema(kind: Any, schemas: dict[str, Any]) -> Mapping[str, Any]:
    """Return the JSON Schema of a type; those that it refers to are added to `schemas`."""
    if isinstance(kind, Mapping):
        return kind
    parts = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if all(isinstance(part, type) and issubclass(part, msgspec.Struct) for part in parts):
        found = [_struct_schema(part, schemas) for part in parts]
        return {"anyOf": found} if len(found) > 1 else found[0]
    schema = TypeAdapter(kind).json_schema(ref_template=f"{_SCHEMAS}{{model}}")
    schemas |= schema.pop("$defs", {})
    return schema


def _struct_schema(kind: Any, schemas: dict[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a type of msgspec's; a field kept as JSON has that of what it holds."""
    (schema,), components = msgspec.json.schema_components(
        [kind], ref_template=f"{_SCHEMAS}{{name}}"
    )
    schemas |= components
    for struct in _structs(inspect.type_info(kind)):
        properties = components[struct.cls.__name__]["properties"]
        for one in struct.fields:
            if (held := held_type(one.type)) is not None:
                described = properties[one.encode_name]
                properties[one.encode_name] = {**_struct_schema(held, schemas), **described}
    return schema


def _structs(node: object) -> Iterator[inspect.StructType]:
    """Yield the structs in a type, however deep they lie in it."""
    if isinstance(node, inspect.StructType):
        yield node
    if isinstance(node, inspect.Type | inspect.Field):
        node = tuple(getattr(node, name) for name in node.__struct_fields__)
    for part in node if isinstance(node, tuple) else ():
        yield from _structs(part)


_PROBES_TAG = "Probes"
_TIME = {"type": "string", "format": "date-time", "description": "ISO 8601, UTC."}
_METRICS = """\
# HELP http_requests_total Requests answered, by declared route, or other for none, and status.
# TYPE http_requests_total counter
http_requests_total{{service="{service}",route="/ready",status="200"}} 7
"""
_UPTIME = {"type": "number", "description": "Seconds since the pod's first process came up."}


def _probes(plan: ProbePlan, ready: Content | None, schemas: dict[str, Any]) -> list[Operation]:
    """Return `/health`, `/ready` and `/metrics` as this service answers them."""
    live_reasons = list(dict.fromkeys(check.reason for check in plan.liveness))
    ready_reasons = list(dict.fromkeys(check.reason for check in plan.readiness))
    service = plan.arguments["service"]
    health = {"service": {"const": service}, "timestamp": _TIME, "uptime_seconds": _UPTIME}
    own: Mapping[str, Any] = _schema(ready.schema, schemas) if ready else {}
    said: dict[str, Any] = {
        **own.get("properties", {}),
        "probe_process": {"enum": ["running", "missing", "off"]},
        "timestamp": _TIME,
    }
    moment = "2026-11-25T12:00:00.250000+00:00"
    alive = {"service": service, "timestamp": moment, "uptime_seconds": 4211.5}
    told: Mapping[str, Any] = ready.example if ready and isinstance(ready.example, Mapping) else {}
    serving = {**told, "probe_process": "running", "timestamp": moment}
    return [
        Operation(
            "GET",
            HEALTH_PATH,
            "Liveness",
            "500 only where nothing but a restart would help. The probe port answers the same.",
            answers={
                200: ("Alive.", _verdict("healthy", health, alive)),
                500: ("To be restarted.", _verdict("unhealthy", health, alive, live_reasons)),
            },
            tag=_PROBES_TAG,
        ),
        Operation(
            "GET",
            READY_PATH,
            "Readiness",
            "Whether a request would be answered, and the reason when it would not. The probe port"
            " answers the same.",
            answers={
                200: ("Ready.", _verdict("ready", said, serving)),
                503: (
                    "Not ready. Beside what is listed, each reason brings details of its own.",
                    _verdict("not_ready", said, serving, ready_reasons),
                ),
            },
            tag=_PROBES_TAG,
        ),
        Operation(
            "GET",
            METRICS_PATH,
            "Metrics of the whole pod, for Prometheus",
            "In Prometheus's text format, or as OpenMetrics where `Accept` names it. The probe port"
            " answers the same.",
            answers={
                200: (
                    "The metrics.",
                    Content("text/plain", {"type": "string"}, _METRICS.format(service=service)),
                ),
                500: (
                    "The metrics cannot be read; the log says why.",
                    _error("the metrics cannot be read; the log says why", "metrics_failed"),
                ),
            },
            tag=_PROBES_TAG,
        ),
    ]


def _verdict(
    status: str,
    properties: Mapping[str, Any],
    example: Mapping[str, Any],
    reasons: Sequence[str] = (),
) -> Content:
    """Return a probe's body and an example of it; with `reasons`, of one that is no 200."""
    known: dict[str, Any] = {"status": {"const": status}}
    shown: dict[str, Any] = {"status": status}
    if reasons:
        # A failure while the body itself is made is an `exception`.
        reason = {"enum": [*reasons, "exception"]}
        known["reason"] = {**reason, "description": "The reason that weighs most."}
        known["reasons"] = {"type": "array", "items": reason, "description": "All reasons."}
        shown |= {"reason": reasons[0], "reasons": [reasons[0]]}
    schema = {"type": "object", "required": list(known), "properties": {**known, **properties}}
    return Content(JSON, schema, {**shown, **example})
