"""A service's API page: its OpenAPI document (spec.openapis.org, 3.1) and a page that shows it.

BentoML's own page knows only its POST routes, and asks a host on the internet for a script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from pydantic import TypeAdapter

from bentos.edge.door import Route
from bentos.edge.http import Request, Response, json_response
from bentos.health.probes import HEALTH_PATH, METRICS_PATH, READY_PATH

DOCS_PATH = "/docs"
DOCUMENT_PATH = "/docs.json"
JSON = "application/json"

_SCHEMA_REFERENCE = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error", "reason"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong, and the remedy."},
        "reason": {"type": "string", "description": "The same as one word, for programs."},
        "field": {"type": "string", "description": "The field or item at fault, where one is."},
    },
}
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
    <script>SwaggerUIBundle({{url: ".{document}", dom_id: "#page", deepLinking: true}});</script>
  </body>
</html>
"""


@dataclass(frozen=True)
class Content:
    """A body of one media type: its JSON Schema, or a type that pydantic knows, and an example."""

    media_type: str
    schema: Any
    example: object = None


@dataclass(frozen=True)
class Operation:
    """What one route takes and answers; `answers` maps each status to its text and body.

    An answer without a body of its own is an error in the one shape that all errors have.
    """

    method: str
    path: str
    summary: str
    description: str = ""
    body: Sequence[Content] = ()
    parameters: Sequence[Mapping[str, object]] = ()
    answers: Mapping[int, tuple[str, Content | None]] = field(default_factory=dict)
    protected: bool = False


@dataclass(frozen=True)
class ApiPage:
    """The operations of a service under a title; the probes are added to them.

    `schemas` are JSON Schemas, by name, that the operations' own refer to.
    """

    title: str
    version: str
    description: str
    operations: Sequence[Operation]
    schemas: Mapping[str, Any] = field(default_factory=dict)

    def routes(self) -> list[Route]:
        """Return the routes of the document and of the page that shows it, also at the root."""
        document = json_response(self.document())
        page = _PAGE.format(
            title=escape(self.title), description=escape(self.description), document=DOCUMENT_PATH
        )
        shown = Response(page.encode(), content_type=b"text/html; charset=utf-8")

        async def answer_document(_: Request) -> Response:
            return document

        async def answer_page(_: Request) -> Response:
            return shown

        return [
            Route("GET", DOCUMENT_PATH, answer_document),
            Route("GET", DOCS_PATH, answer_page),
            Route("GET", "/", answer_page),
        ]

    def document(self) -> dict[str, object]:
        """Return the OpenAPI document."""
        schemas: dict[str, Any] = {"Error": _ERROR, **self.schemas}
        paths: dict[str, dict[str, object]] = {}
        for operation in [*self.operations, *_PROBES]:
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
    described: dict[str, object] = {
        "summary": operation.summary,
        "description": operation.description,
        "operationId": f"{operation.method.lower()}{operation.path.replace('/', '_')}",
        "responses": {
            str(status): {
                "description": text,
                "content": _media(
                    [body or Content(JSON, {"$ref": "#/components/schemas/Error"})], schemas
                ),
            }
            for status, (text, body) in operation.answers.items()
        },
    }
    if operation.body:
        described["requestBody"] = {"required": True, "content": _media(operation.body, schemas)}
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.protected:
        described["security"] = [{"token": []}, {}]
    return described


def _media(bodies: Sequence[Content], schemas: dict[str, Any]) -> dict[str, object]:
    media: dict[str, object] = {}
    for body in bodies:
        schema = body.schema
        if not isinstance(schema, Mapping):
            schema = TypeAdapter(schema).json_schema(ref_template=_SCHEMA_REFERENCE)
            schemas |= schema.pop("$defs", {})
        media[body.media_type] = {"schema": schema}
        if body.example is not None:
            media[body.media_type] = {"schema": schema, "example": body.example}
    return media


_OBJECT = {"type": "object"}
_PROBES = (
    Operation(
        "GET",
        HEALTH_PATH,
        "Liveness",
        "500 only where nothing but a restart would help.",
        answers={
            200: ("Alive.", Content(JSON, _OBJECT, {"status": "healthy"})),
            500: ("To be restarted.", Content(JSON, _OBJECT, {"status": "unhealthy"})),
        },
    ),
    Operation(
        "GET",
        READY_PATH,
        "Readiness",
        "Whether a request would be answered, and the reason when it would not.",
        answers={
            200: ("Ready.", Content(JSON, _OBJECT, {"status": "ready"})),
            503: (
                "Not ready.",
                Content(JSON, _OBJECT, {"status": "not_ready", "reason": "shutting_down"}),
            ),
        },
    ),
    Operation(
        "GET",
        METRICS_PATH,
        "Metrics of the whole pod, for Prometheus",
        answers={
            200: ("Prometheus text format.", Content("text/plain", {"type": "string"})),
            500: ("The metrics cannot be read.", None),
        },
    ),
)
