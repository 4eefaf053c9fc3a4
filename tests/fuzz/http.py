"""Requests by the thousand to running services: by their API documents, and damaged real ones."""

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from bentos.inference.state import InferenceState
from bentos.inference.v2.messages import HEADER_LENGTH
from bentos.logging.state import LoggingState
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import form, pictures
from tests.support.models import COLOURS
from tests.support.predictions import batch, prediction
from tests.support.servers import Server

CONNECTIONS = 16
# Longer than the time-outs of a request and of its body, which are answers.
HANG_SECONDS = 30.0
# Between two looks at whether a service still answers.
_PIECE = 2_000
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_OVERLOADED = (429, 503, 504)
_SHOWN = 300
# What stands in the place of a path's and of a query's parameters, so that some requests succeed:
# the examples of `/evidence` and `/log` have these ids.
_PLACES = {"model": COLOURS, "version": "1"}
_VALUES = {"id": "line-4-000017", "verdict": "review", "before": "1795600000", "limit": "5"}
_BY_TYPE = {"integer": "0", "number": "30", "boolean": "true", "string": "line-4"}
_FILES = {
    "application/octet-stream": bytes(4 * 768),
    "multipart/form-data": form(pictures()[0]),
    **{f"image/{form}": pictures()[0] for form in ("png", "jpeg", "bmp")},
}
_BROWSER = "Accept: text/html\r\n"


@dataclass
class Findings:
    """How many requests were answered with what, and what must not be."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    closed: int = 0
    wrong: list[str] = field(default_factory=list)

    def judge(self, status: int, body: bytes, sent: bytes | str, reasons: frozenset[str]) -> None:
        """Count an answer, and note where it is one that must not be."""
        self.statuses[status] += 1
        if status < 400:
            return
        try:
            content = json.loads(body) if body else {}
            reason = content["reason"] if isinstance(content["error"], str) else None
        except (ValueError, KeyError, TypeError):
            self._note(f"{status} in another shape: {body[:_SHOWN]!r}", sent)
            return
        if status >= 500 and status not in _OVERLOADED:
            self._note(f"{status} {reason}", sent)
        elif reason not in reasons:
            self._note(f"{status} with a reason that is not declared: {reason}", sent)

    def hangs(self, sent: bytes) -> None:
        """Note a request that got no answer and no end of its connection."""
        self._note("no answer", sent)

    def _note(self, what: str, sent: bytes | str) -> None:
        self.wrong.append(f"{what}; sent: {sent[:_SHOWN]!r}")


def declared_reasons(service: str) -> frozenset[str]:
    """Return the reasons that a service's metrics have a series for, and those of probes."""
    state = InferenceState if service == "inference" else LoggingState
    counted = [value for one in state.rejected.values(state) for value in one]
    failed = [value for values in state.errors.values(state) for value in values]
    # Counted as `other`, and answered by their own names.
    others = (
        *("not_found", "conflict", "unknown_edge_device", "too_many_headers", "bad_request"),
        *("no_heat_map", "picture_deleted", "explain_busy", "explain_starting"),
    )
    return frozenset((*counted, *failed, *others))


def seeds(server: Server, service: str) -> Sequence[bytes]:
    """Return whole requests as clients send them: to every route that a service says it has."""
    said = server.get("/nothing-is-here").json()["error"].partition("the routes are ")[2]
    paths = server.get("/docs.json").json()["paths"]
    found = [
        *_declared(paths),
        *(_request("GET", path) for path in said.split(", ") if path not in paths),
        _request("GET", "/health", headers="Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        _request("POST", "/health", b"x", headers="Expect: 100-continue\r\n"),
    ]
    if service == "logging":
        body = json.dumps(batch(prediction(), prediction())).encode()
        return [*found, _request("POST", "/log", body)]
    return [
        *found,
        _request("POST", "/predict", json.dumps({"data": [0.5] * 768}).encode()),
        _request("POST", "/predict", json.dumps({"data": [[0.5] * 768] * 2}).encode()),
        *_infers(),
        *(_request("POST", "/predict_image", one, "image/png") for one in pictures()),
    ]


def _declared(paths: dict[str, Any]) -> Iterator[bytes]:
    """Yield requests of an API document: each route with its examples, then all its parameters."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            where = path.format(**_PLACES)
            content = operation.get("requestBody", {}).get("content", {"": {}})
            for kind, body in content.items():
                given = body.get("example", _FILES.get(kind, b""))
                if not isinstance(given, bytes):
                    given = (given if isinstance(given, str) else json.dumps(given)).encode()
                boundary = "; boundary=fuzz" if kind.startswith("multipart") else ""
                yield _request(method.upper(), where, given, kind + boundary)
            asked = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
            query = "&".join(
                f"{one['name']}={_VALUES.get(one['name'], _BY_TYPE[one['schema']['type']])}"
                for one in asked
            )
            for headers in ("", _BROWSER) if asked else ():
                yield _request("GET", f"{where}?{query}", headers=headers)


def _infers() -> list[bytes]:
    """Return requests of the Open Inference Protocol, with numbers in the JSON and behind it."""
    path = f"/v2/models/{COLOURS}/infer"
    tensor: dict[str, object] = {"name": "input", "shape": [2, 768], "datatype": "FP32"}
    wanted = {"id": "1", "outputs": [{"name": "class", "parameters": {"binary_data": True}}]}
    numbers = json.dumps({"inputs": [{**tensor, "data": [0.5] * 1_536}], **wanted}).encode()
    raw = bytes(4 * 1_536)
    size = {"parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [{**tensor, **size}], **wanted}).encode()
    length = f"{HEADER_LENGTH}: {len(head)}\r\n"
    return [
        _request("POST", path, numbers),
        _request("POST", path, head + raw, "application/octet-stream", length),
    ]


def _request(
    method: str, path: str, body: bytes = b"", kind: str = "application/json", headers: str = ""
) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: fuzz\r\n{headers}"
    if method == "POST":
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def damaged(whole: Sequence[bytes], chance: random.Random) -> Callable[[], tuple[bytes, bool]]:
    """Return a maker of requests, and of whether each is whole.

    Three in four are damaged in the body alone, and whole; the others anywhere.
    """
    with_body = [one.partition(b"\r\n\r\n") for one in whole if not one.endswith(b"\r\n\r\n")]
    bodies = [body for _, _, body in with_body]

    def make() -> tuple[bytes, bool]:
        if chance.random() < 0.25:
            return mutated(whole, chance), False
        head, _, body = chance.choice(with_body)
        body = mutated([body, *chance.sample(bodies, 1)], chance)
        length = f"Content-Length: {len(body)}".encode()
        return re.sub(rb"Content-Length: \d+", length, head) + b"\r\n\r\n" + body, True

    return make


def send_damaged(server: Server, service: str, *, count: int, seed: int) -> Findings:
    """Send so many damaged requests, on as many connections; look in between whether it answers."""
    findings = Findings()
    make = damaged(seeds(server, service), random.Random(seed))
    reasons = declared_reasons(service)

    async def one() -> None:
        sent, is_whole = make()
        findings.requests += 1
        try:
            answer = await asyncio.wait_for(_exchange(server.port, sent, is_whole), HANG_SECONDS)
        except TimeoutError:
            findings.hangs(sent)
            return
        found = _HEAD.match(answer)
        if found is None:
            # Not to be answered: what was sent was no request, or its connection was cut.
            findings.closed += 1
            if answer:
                findings.wrong.append(f"no HTTP: {answer[:_SHOWN]!r}; sent: {sent[:_SHOWN]!r}")
            return
        _, _, body = answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(answer.partition(b"\r\n\r\n")[0])
        body = body[: int(length[1])] if length else body
        status = int(found[1])
        if sent.startswith(b"HEAD") or status < 200:
            findings.statuses[status] += 1
        else:
            findings.judge(status, body, sent, reasons)

    async def piece(size: int) -> None:
        left = iter(range(size))

        async def client() -> None:
            for _ in left:
                await one()

        await asyncio.gather(*(client() for _ in range(CONNECTIONS)))

    for first in range(0, count, _PIECE):
        asyncio.run(piece(min(_PIECE, count - first)))
        if server.get("/health").status_code != 200:
            findings.wrong.append(f"not healthy after {findings.requests} requests")
    return findings


async def _exchange(port: int, sent: bytes, is_whole: bool) -> bytes:
    """Send on a connection of its own, and return all that is answered.

    After what may not be whole the connection is closed on this side: the service would wait.
    """
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    try:
        writer.write(sent)
        if not is_whole:
            writer.write_eof()
        return await reader.read(-1)
    except OSError:
        return b""
    finally:
        writer.transport.abort()


def send_by_document(server: Server, service: str, *, count: int, seed: int) -> Findings:
    """Send what schemathesis makes of the API's description: valid, and wrong on purpose."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as with_seed
    from schemathesis.generation import GenerationMode

    findings = Findings()
    reasons = declared_reasons(service)
    schema = schemathesis.openapi.from_dict(server.get("/docs.json").json())
    found: list[Any] = list(schema.get_all_operations())
    operations = [one.ok() for one in found]
    each = max(1, count // (2 * len(operations)))
    session = requests.Session()
    session.trust_env = False
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)

            @with_seed(seed)
            @settings(
                max_examples=each,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def ask(case: Any) -> None:
                findings.requests += 1
                started = time.monotonic()
                shown = f"{case.method} {case.formatted_path} {case.body!r:.200}"
                try:
                    answer = case.call(base_url=server.url, session=session, timeout=HANG_SECONDS)
                except requests.exceptions.RequestException as error:
                    # What no client can send, such as a line end in a header, goes nowhere.
                    findings.closed += 1
                    if time.monotonic() - started >= HANG_SECONDS:
                        findings.wrong.append(f"{error}; sent: {shown}")
                    return
                if case.method != "HEAD":
                    findings.judge(answer.status_code, answer.content, shown, reasons)

            try:
                ask()
            except Exception as error:  # nothing to generate is no finding
                if "Unsatisfiable" not in type(error).__name__:
                    raise
    return findings
