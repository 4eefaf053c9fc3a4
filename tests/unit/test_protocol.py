"""HTTP as a worker speaks it, over real sockets on a real uvicorn server: every client is bounded.

The same requests reach the app, in the same order and with the same bodies, as with uvicorn's own
protocol, however they are cut; what is too large, malformed or too slow ends its own connection and
keeps no other client waiting.
"""

import asyncio
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h11
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bentos.edge import protocol
from bentos.edge.protocol import (
    CHUNKS,
    HEAD_BYTES,
    HEADERS,
    BoundedProtocol,
    Connections,
    use_bounded_protocol,
)
from tests.support.sockets import SECONDS, Connection, served

GET = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /log HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# An offer that Java's HTTP client makes with every first request.
H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)


def post(body: bytes, *, path: bytes = b"/predict", more: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s" % (
        path,
        len(body),
        more,
        body,
    )


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


@dataclass
class App:
    """Answers with what it was sent; notes which paths came, and of which the client left."""

    seen: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    answer_bytes: int = 0
    go_on: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body where the path asks for it, and answer."""
        self.seen.append(scope["path"])
        body = bytearray()
        more = scope["path"] != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.append(scope["path"])
                return
            body += message["body"]
            more = message["more_body"]
        if scope["path"] == "/first":
            # What the event loop turns to before it goes on with this connection.
            asyncio.get_running_loop().call_soon(self.seen.append, "other")
        if scope["path"] == "/slow":
            await asyncio.sleep(0.2)
        if scope["path"] == "/stream":
            headers = [(b"content-length", b"4")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await asyncio.to_thread(self.go_on.wait, SECONDS)
            await send({"type": "http.response.body", "body": b"late"})
            return
        content: dict[str, object] = {
            "method": scope["method"],
            "path": scope["path"],
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]],
            "size": len(body),
            "hash": hashlib.sha256(body).hexdigest(),
        }
        answer = json.dumps(content).encode()
        if scope["path"] == "/large":
            answer = b"x" * self.answer_bytes
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@dataclass
class Service:
    """A server and what its app saw."""

    port: int
    app: App

    def connect(self, **options: Any) -> Connection:
        return Connection(self.port, **options)

    def ask(self, *parts: bytes, pause: float = 0.0) -> Any:
        """Send one request and return what the app says of it."""
        with self.connect() as client:
            client.send(*parts, pause=pause)
            answer = client.read()
            assert answer.status == 200, answer
            return json.loads(answer.body)

    def refusal(self, *parts: bytes, pause: float = 0.0) -> tuple[int, int]:
        """Send what is refused; return the status and how many bytes left before the close."""
        with self.connect() as client:
            sent = client.send(*parts, pause=pause)
            answer = client.read()
            assert answer.headers["connection"] == "close"
            assert set(json.loads(answer.body)) == {"error", "reason"}
            assert client.is_closed()
            return answer.status, sent

    def answers_others(self) -> bool:
        return bool(self.ask(GET)["path"] == "/ready")


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A server on uvloop, as both images have it, or on the event loop of the parameter."""
    app = App()
    with served(app, loop=getattr(request, "param", "uvloop")) as port:
        yield Service(port, app)


# What the kernel takes of a client's bytes although the server reads none of them.
_KERNEL_BYTES = 12_000_000


class TestHeads:
    @pytest.mark.case(2)
    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 30_000_000 + b"\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 2_000_000 + b"\r\n", 431),
            (b"GET /" + b"a" * 50_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        ],
        ids=["one-header-of-30-MB", "two-million-headers", "url-of-50-MB"],
    )
    def test_a_huge_head_is_refused_at_64_kb_and_the_connection_closed(
        self, service: Service, sent: bytes, status: int
    ) -> None:
        """A head of 10 to 50 MB in one header, in small ones or in the URL is a 431 or 414."""
        found, taken = service.refusal(sent)
        assert found == status
        assert taken < _KERNEL_BYTES
        assert service.answers_others()

    @pytest.mark.case(2)
    def test_a_head_of_64_kb_is_taken_and_one_byte_more_is_not(self, service: Service) -> None:
        """A head of exactly 65,536 bytes is answered; of 65,537 it is a 431."""
        start, end = b"GET / HTTP/1.1\r\nHost: x\r\na: ", b"\r\n\r\n"
        fits = start + b"b" * (HEAD_BYTES - len(start) - len(end)) + end
        assert service.ask(fits)["path"] == "/"
        assert service.refusal(fits.replace(b"b", b"bb", 1))[0] == 431

    @pytest.mark.case(2)
    def test_256_headers_are_taken_and_one_more_is_not(self, service: Service) -> None:
        """A request with 256 headers is answered; with 257 it is a 431."""
        start = b"GET / HTTP/1.1\r\nHost: x\r\n"
        assert len(service.ask(start + b"a: b\r\n" * (HEADERS - 1) + b"\r\n")["headers"]) == HEADERS
        assert service.refusal(start + b"a: b\r\n" * HEADERS + b"\r\n")[0] == 431

    @pytest.mark.parametrize(
        "sent",
        [
            b"\x00" * 100,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            POST + b"Content-Length: -1\r\n\r\n",
            POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ],
        ids=[
            *("zeros", "tls-hello", "no-request", "no-colon", "folded", "url", "http2"),
            *("two-lengths", "negative-length", "length-and-chunked"),
        ],
    )
    def test_what_is_no_request_is_a_400(self, service: Service, sent: bytes) -> None:
        assert service.refusal(sent)[0] == 400
        assert service.app.seen == []

    def test_a_head_that_does_not_come_closes_its_connection(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
        for sent in (b"", b"GET / HT", b"\r\n\r\n", GET + b"GET / HT"):
            with service.connect() as client:
                client.send(sent)
                if sent.startswith(GET):
                    assert client.read().status == 200
                assert client.is_closed()


# Where a transport pauses and resumes reading, asyncio's own loop is another one.
@pytest.mark.parametrize("service", ["uvloop", "asyncio"], indirect=True)
class TestPipelining:
    @pytest.mark.case(3)
    def test_5000_requests_in_one_write_are_answered_in_order_and_others_between_them(
        self, service: Service
    ) -> None:
        """5,000 requests sent ahead in one write: answers in order, other clients come between."""
        paths = [b"/first", *(b"/%d" % number for number in range(1, 5_000))]
        with service.connect() as client:
            client.send(b"".join(GET.replace(b"/ready", path) for path in paths))
            assert client.read().status == 200
            assert service.answers_others()
            for path in paths[1:]:
                assert json.loads(client.read().body)["path"] == path.decode()
        # What the event loop was given while the first was answered came before the third.
        assert service.app.seen.index("other") <= 2

    @pytest.mark.case(3)
    def test_a_request_sent_ahead_is_not_started_before_its_predecessor_is_answered(
        self, service: Service
    ) -> None:
        """Two requests in one write: the second begins when the first has its answer."""
        with service.connect() as client:
            client.send(post(b"x", path=b"/slow") + GET, pause=0.05)
            assert service.app.seen == ["/slow"]
            assert [client.read().status, client.read().status] == [200, 200]

    @pytest.mark.case(3)
    def test_requests_sent_ahead_without_end_stay_with_their_sender(self, service: Service) -> None:
        """A client that sends ahead for ever and reads nothing fills its own buffers only."""
        with service.connect() as client:
            client.socket.settimeout(0.5)
            taken = client.send(post(b"x" * 100, path=b"/slow") * 300_000)
            assert taken < _KERNEL_BYTES
            assert service.answers_others()


class TestChunked:
    def test_chunks_as_small_as_a_byte_arrive_whole(self, service: Service) -> None:
        body = b"0123456789" * 20_000
        tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        found = service.ask(CHUNKED + tiny)
        assert found["hash"] == hashlib.sha256(body).hexdigest()

    def test_other_connections_are_served_between_slices_of_tiny_chunks(self) -> None:
        body = b"x" * (20 * CHUNKS)
        sent = CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body)

        async def turns() -> int:
            link = Link(BoundedProtocol, open_connections=Connections(10))
            link.receive(sent)
            count = 0
            while link.sizes != [len(body)]:
                await asyncio.sleep(0)
                count += 1
                link.receive(b"0\r\n\r\n" if count == 100 else b"")
            return count

        assert asyncio.run(turns()) > 20

    @pytest.mark.parametrize("size", [1, 1_000, 70_000, 3_000_000])
    def test_a_large_chunk_may_come_in_pieces(self, service: Service, size: int) -> None:
        sent = CHUNKED + chunks(b"x" * size, b"y" * size)
        middle = len(sent) // 2
        found = service.ask(
            sent[: middle - 7], sent[middle - 7 : middle], sent[middle:], pause=0.01
        )
        assert found["size"] == 2 * size

    def test_a_head_behind_a_chunked_body_is_a_request_of_its_own(self, service: Service) -> None:
        offer = post(b"body", path=b"/second", more=H2C)
        with service.connect() as client:
            client.send(CHUNKED + chunks(b"x" * 10) + offer)
            assert json.loads(client.read().body)["size"] == 10
            assert json.loads(client.read().body)["size"] == 4

    @pytest.mark.case(2)
    def test_a_head_behind_a_chunked_body_is_bounded_like_any_other(self, service: Service) -> None:
        """A header of 30 MB behind a chunked body in the same write is a 431."""
        huge = b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 30_000_000
        with service.connect() as client:
            client.send(CHUNKED + chunks(b"x") + huge)
            assert client.read().status == 200
            assert client.read().status == 431
            assert client.is_closed()

    @pytest.mark.case(2)
    @pytest.mark.parametrize(
        "endless",
        [
            b"1;" + b"e" * 30_000_000,
            b"0\r\n" + b"a:b\r\n" * 6_000_000,
            b"0\r\na: " + b"b" * 30_000_000,
        ],
        ids=["chunk-extension", "trailer-fields", "one-trailer-field"],
    )
    def test_what_stands_around_chunks_is_bounded_too(
        self, service: Service, endless: bytes
    ) -> None:
        """A chunk extension or a trailer of 30 MB is a 400 or 431, and the connection is closed."""
        status, sent = service.refusal(CHUNKED + chunks(b"x" * 100)[:-5] + endless)
        assert status in (400, 431)
        assert sent < _KERNEL_BYTES

    def test_chunk_extensions_and_trailer_fields_are_ignored(self, service: Service) -> None:
        trailer = b"0\r\nAuthorization: Bearer forged\r\n\r\n"
        found = service.ask(CHUNKED + b"3;name=value\r\nabc\r\n" + trailer)
        assert found["size"] == 3
        assert [name for name, _ in found["headers"]] == ["host", "transfer-encoding"]

    @pytest.mark.parametrize(
        "body",
        [
            b"no size\r\n",
            b"3\r\nabcd\r\n",
            b"fffffffffffffffff\r\n",
            b"-1\r\nx\r\n",
            b"0x1\r\nx\r\n",
        ],
    )
    @pytest.mark.parametrize("first", [b"", b"1\r\nx\r\n"])
    def test_a_malformed_chunk_is_a_400_at_once(
        self, service: Service, first: bytes, body: bytes
    ) -> None:
        assert service.refusal(CHUNKED + first + body)[0] == 400
        deadline = time.monotonic() + SECONDS
        while service.app.left != ["/log"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert service.app.left == ["/log"]  # and nobody waits for the rest of the body


class TestUpgrades:
    @pytest.mark.case(4)
    @pytest.mark.parametrize("pause", [0.0, 0.05])
    def test_an_offer_to_upgrade_is_ignored_and_the_body_kept(
        self, service: Service, pause: float
    ) -> None:
        """POST with `Upgrade: h2c`, its body in the same segment or 50 ms later: 200."""
        request = post(b"0123456789", more=H2C)
        parts = [request] if not pause else [request[:-10], request[-10:]]
        assert service.ask(*parts, pause=pause)["size"] == 10

    @pytest.mark.case(4)
    def test_an_offer_to_upgrade_may_come_with_a_chunked_body(self, service: Service) -> None:
        """POST with `Upgrade: h2c` and a chunked body: 200."""
        head = CHUNKED[:-2] + H2C + b"\r\n"
        assert service.ask(head + chunks(b"01234", b"56789"))["size"] == 10
        assert service.ask(head, chunks(b"01234", b"56789"), pause=0.05)["size"] == 10

    @pytest.mark.case(4)
    def test_a_connection_that_offered_an_upgrade_is_kept(self, service: Service) -> None:
        """Two requests with `Upgrade: h2c` on one connection: both are answered."""
        with service.connect() as client:
            for _ in range(2):
                client.send(post(b"abc", more=H2C))
                assert json.loads(client.read().body)["size"] == 3

    @pytest.mark.case(4)
    def test_an_offer_of_a_websocket_is_ignored_as_well(self, service: Service) -> None:
        """GET with `Upgrade: websocket`: answered as a plain request."""
        offer = b"Connection: Upgrade\r\nUPGRADE: websocket\r\n"
        assert service.ask(GET[:-2] + offer + b"\r\n")["path"] == "/ready"


class TestAnswers:
    def test_head_has_a_length_and_no_body(self, service: Service) -> None:
        with service.connect() as client:
            for _ in range(2):
                client.send(GET.replace(b"GET", b"HEAD"))
                answer = client.read_head()
                assert answer.status == 200
                assert int(answer.headers["content-length"]) > 0

    def test_a_client_that_asks_before_it_sends_is_told_to(self, service: Service) -> None:
        request = post(b"0123456789", more=b"Expect: 100-continue\r\n")
        with service.connect() as client:
            client.send(request[:-10])
            assert client.read().status == 100
            client.send(request[-10:])
            assert json.loads(client.read().body)["size"] == 10

    def test_an_old_client_gets_its_answer_and_a_close(self, service: Service) -> None:
        with service.connect() as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.read().status == 200
            assert client.is_closed()

    def test_a_body_that_the_app_does_not_read_is_no_second_request(self, service: Service) -> None:
        with service.connect() as client:
            client.send(post(GET * 1_000, path=b"/unread"), GET)
            assert json.loads(client.read().body)["path"] == "/unread"
            assert json.loads(client.read().body)["path"] == "/ready"
        assert service.app.seen == ["/unread", "/ready"]

    @pytest.mark.case(37)
    def test_an_idle_connection_is_kept_as_long_as_it_is_set(self) -> None:
        """A connection that is idle for longer than uvicorn's own 5 s is kept as it is set."""
        with served(App(), keep_alive=2) as port, Connection(port) as client:
            client.send(GET)
            assert client.read().status == 200
            time.sleep(1)
            client.send(GET)
            assert client.read().status == 200
            assert client.is_closed()

    @pytest.mark.case(10)
    def test_a_client_that_does_not_read_its_answer_is_cut_off(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An answer of 30 MB that nobody reads: the connection is closed, other clients go on."""
        monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.3)
        service.app.answer_bytes = 30_000_000
        with service.connect(receive_buffer=4_096) as client:
            client.send(post(b"", path=b"/large"))
            time.sleep(1.5)
            assert service.answers_others()
            with pytest.raises((ConnectionError, AssertionError)):
                assert len(client.read().body) == 30_000_000

    @pytest.mark.case(10)
    def test_a_client_that_reads_slowly_but_steadily_gets_its_answer(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An answer of 16 MB that is read at 8 MB/s: it arrives whole."""
        monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.5)
        service.app.answer_bytes = size = 16_000_000
        with service.connect(receive_buffer=65_536) as client:
            client.send(post(b"", path=b"/large"))
            found = 0
            while found < size:
                found += len(client.socket.recv(200_000))
                time.sleep(0.01)

    def test_a_client_that_never_reads_small_answers_is_cut_off(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.3)
        service.app.answer_bytes = 10_000
        with service.connect(receive_buffer=4_096) as client:
            client.socket.settimeout(5)
            client.send(post(b"", path=b"/large") * 100_000)
            assert client.send(GET * 1_000_000) < 34_000_000
        assert service.answers_others()


class TestJoinedWrites:
    def test_a_head_goes_out_together_with_a_body_that_follows_at_once(self) -> None:
        async def run() -> list[bytes]:
            link = Link(BoundedProtocol, open_connections=Connections(10))
            link.receive(GET)
            while not link.answers:  # noqa: ASYNC110 - a turn of the loop is what counts
                await asyncio.sleep(0)
            return link.writes

        (written,) = asyncio.run(run())
        assert written.startswith(b"HTTP/1.1 200 OK\r\n")
        assert written.endswith(b"\r\n\r\n1")

    def test_a_head_does_not_wait_for_a_body_that_comes_later(self, service: Service) -> None:
        with service.connect() as client:
            client.send(GET.replace(b"/ready", b"/stream"))
            assert client.read_head().headers["content-length"] == "4"
            assert service.app.seen == ["/stream"]
            service.app.go_on.set()
            assert client.socket.recv(4) == b"late"


class TestConnections:
    @pytest.mark.case(11)
    def test_beyond_the_limit_the_longest_idle_connection_gives_way(self) -> None:
        """40 idle connections to a worker that takes 20: the next client is answered."""
        with served(App(), max_connections=20) as port:
            idle = [Connection(port) for _ in range(20)]
            idle[1].send(GET)
            assert idle[1].read().status == 200  # it waits since later than the third
            late = [Connection(port) for _ in range(20)]
            with Connection(port) as client:
                client.send(GET)
                assert client.read().status == 200
            assert all(one.is_closed() for one in idle)
            late[-1].send(GET)
            assert late[-1].read().status == 200

    @pytest.mark.case(11)
    @pytest.mark.parametrize(
        "sent",
        [
            b"\r\n\r\n",
            GET[:20],
            post(b"xy")[:-1],
            CHUNKED + b"1\r\nx\r\n",
            post(b"x" * 1_000, path=b"/unread")[:-1],
        ],
        ids=["empty-lines", "half-head", "half-body", "half-chunked", "half-body-answered"],
    )
    def test_connections_whose_request_is_not_whole_give_way_too(self, sent: bytes) -> None:
        """Connections that hold back the rest of a request do not keep other clients out."""
        with served(App(), max_connections=20) as port:
            stalled = [Connection(port) for _ in range(20)]
            for one in stalled:
                one.send(sent)
            time.sleep(0.2)
            with Connection(port) as client:
                client.send(GET)
                assert client.read().status == 200

    @pytest.mark.case(11)
    def test_a_request_that_is_being_answered_keeps_its_connection(self) -> None:
        """With as many requests in work as connections are allowed, a new one is closed."""
        with served(App(), max_connections=3) as port:
            working = [Connection(port) for _ in range(3)]
            for one in working:
                one.send(post(b"x", path=b"/slow"))
            time.sleep(0.05)
            with Connection(port) as client:
                assert client.is_closed()
            assert [one.read().status for one in working] == [200, 200, 200]

    def test_a_client_that_leaves_is_forgotten(self) -> None:
        with served(App(), max_connections=3) as port:
            for _ in range(20):
                with Connection(port) as client:
                    client.send(post(b"x", path=b"/slow"))
            with Connection(port) as client:
                client.send(GET)
                assert client.read().status == 200


class Link:
    """A protocol on a connection without a network, which is given exactly the pieces of a test."""

    def __init__(self, kind: Any, **named: Any) -> None:
        self.requests: list[tuple[str, str, list[Any], bytes]] = []
        self.sizes: list[int] = []
        config = uvicorn.Config(self._app, log_config=None, interface="asgi3")
        config.load()
        self._protocol = kind(config=config, server_state=ServerState(), app_state={}, **named)
        self._transport = _Transport()
        self._protocol.connection_made(self._transport)
        self._pending: list[bytes] = []

    def receive(self, data: bytes) -> None:
        """Hand on what came, now or when it is read again."""
        self._pending.append(data)
        while self._pending and self._transport.reading and not self._transport.closed:
            one = self._pending.pop(0)
            if one:
                self._protocol.data_received(one)

    @property
    def answers(self) -> bytes:
        return b"".join(self._transport.written)

    @property
    def writes(self) -> list[bytes]:
        """What was written, each call for itself."""
        return self._transport.written

    @property
    def closed(self) -> bool:
        return self._transport.closed

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.sizes.append(len(body))
        self.requests.append((scope["method"], scope["path"], scope["headers"], body))
        answer = b"%d" % len(self.requests)
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0


async def outcome(kind: Any, parts: list[bytes], **named: Any) -> tuple[Any, bytes, bool]:
    link = Link(kind, **named)
    for part in parts:
        link.receive(part)
        await asyncio.sleep(0)
    for _ in range(40 * len(parts) + 200):
        await asyncio.sleep(0)
        link.receive(b"")
    return link.requests, link.answers, link.closed


def both(parts: list[bytes]) -> tuple[Any, Any]:
    async def run() -> tuple[Any, Any]:
        ours = await outcome(BoundedProtocol, parts, open_connections=Connections(10))
        return ours, await outcome(HttpToolsProtocol, parts)

    return asyncio.run(run())


_TOKENS = st.text("abcdefgXYZ-_09", min_size=1, max_size=8).map(str.encode)
_VALUES = st.text('abc XYZ09;=,/"\t', max_size=20).map(lambda text: text.strip().encode())
_RESERVED = (b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"host")


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw one valid request, with its body plain, chunked or absent."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE"]))
    path = b"/" + draw(_TOKENS) + draw(st.sampled_from([b"", b"?a=b", b"/%41?q"]))
    fields = [b"Host: x"]
    for name, value in draw(st.lists(st.tuples(_TOKENS, _VALUES), max_size=4)):
        if name.lower() not in _RESERVED:
            fields.append(name + b":" + draw(st.sampled_from([b"", b" ", b"\t "])) + value)
    body = b""
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "length":
        body = b"".join(parts)
        fields.append(
            draw(st.sampled_from([b"Content-Length", b"content-length"])) + b": %d" % len(body)
        )
    elif framing == "chunked":
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="q"']))
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x"]))
        body = b"".join(size % len(part) + extension + b"\r\n" + part + b"\r\n" for part in parts)
        body += b"0\r\n\r\n"
        fields.append(b"Transfer-Encoding: chunked")
    order = draw(st.permutations(fields))
    blank = draw(st.sampled_from([b"", b"\r\n"]))
    return blank + b"%s %s HTTP/1.1\r\n%s\r\n\r\n%s" % (method, path, b"\r\n".join(order), body)


@st.composite
def segments(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """Draw a way to cut a stream."""
    count = draw(st.integers(0, 12))
    places = draw(
        st.lists(st.integers(0, len(stream)), min_size=count, max_size=count, unique=True)
    )
    edges = [0, *sorted(places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


@given(st.data())
def test_however_requests_are_cut_the_app_sees_what_uvicorn_itself_would_show(
    data: st.DataObject,
) -> None:
    stream = b"".join(data.draw(st.lists(requests(), min_size=1, max_size=5)))
    ours, uvicorns = both(data.draw(segments(stream)))
    assert ours == uvicorns
    assert ours[0]


# Verdicts of llhttp that are more lenient than h11's, and harm nobody behind a proxy: none of
# them changes where a request ends.
_LENIENT = {"no-host", "two-hosts", "two-spaces", "http-0.9", "http-2.0", "space-in-chunk-size"}

_ODD = {
    "plain": GET,
    "no-host": b"GET / HTTP/1.1\r\n\r\n",
    "two-hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "two-spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "http-0.9": b"GET /\r\n\r\n",
    "http-1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "http-2.0": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "lower-case-method": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "line-feeds-only": b"GET / HTTP/1.1\nHost: x\n\n",
    "line-feed-in-headers": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "carriage-return-in-headers": b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
    "nul-in-a-value": b"GET / HTTP/1.1\r\nHost: x\r\nA: a\0b\r\n\r\n",
    "space-in-a-name": b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
    "space-before-the-colon": POST + b"Content-Length : 1\r\n\r\na",
    "folded": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "same-length-twice": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "length-list": POST + b"Content-Length: 1, 1\r\n\r\na",
    "length-plus": POST + b"Content-Length: +1\r\n\r\na",
    "length-empty": POST + b"Content-Length:\r\n\r\n",
    "length-and-chunked": CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n" + chunks(b"abc"),
    "chunked-twice": CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(b"abc"),
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\nabc",
    "chunked-then-gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
    "chunk-line-feeds": CHUNKED + b"3\nabc\n0\n\n",
    "chunk-hex-prefix": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk-without-its-end": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "space-in-chunk-size": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "space-before-chunk-size": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "chunk-size-of-20-digits": CHUNKED + b"0" * 20 + b"3\r\nabc\r\n0\r\n\r\n",
    "absolute-url": b"GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
}


def h11_body(sent: bytes) -> bytes | None:
    """Return the body of a request as h11 reads it, None where it refuses."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent)
    body = b""
    try:
        while True:
            found = connection.next_event()
            if isinstance(found, h11.Data):
                body += found.data
            elif isinstance(found, h11.EndOfMessage):
                return body
            elif found is h11.NEED_DATA:
                return None
    except h11.RemoteProtocolError:
        return None


@pytest.mark.parametrize("name", _ODD)
def test_nothing_is_taken_that_h11_refuses_and_no_body_ends_elsewhere(name: str) -> None:
    async def run() -> Any:
        return await outcome(BoundedProtocol, [_ODD[name]], open_connections=Connections(10))

    requests_, answers, closed = asyncio.run(run())
    theirs = h11_body(_ODD[name])
    if not requests_:
        # Refused, or waited for: what comes without any line end in time closes its connection.
        assert (answers.startswith(b"HTTP/1.1 400 ") and closed) or b"\n\n" in _ODD[name]
    elif theirs is None:
        assert name in _LENIENT
    else:
        assert requests_[0][3] == theirs


def test_a_server_without_httptools_is_refused_with_the_remedy() -> None:
    config = uvicorn.Config(App(), http="h11", log_config=None)
    config.load()
    with pytest.raises(RuntimeError, match="install httptools"):
        use_bounded_protocol(uvicorn.Server(config), max_connections=10)
