"""Requests and their bodies, errors and their one shape."""

import asyncio
import gzip
import json
import tracemalloc
import zlib

import pytest

from bentos.edge.http import (
    FREE_BYTES,
    BodyMemory,
    ClientDisconnected,
    Request,
    ServiceError,
    json_response,
    parse_json,
)
from tests.support.requests import DISCONNECT, Client, chunk, request, scope

LIMIT = 10


def read(*messages: dict[str, object], headers: dict[str, str] | None = None) -> bytes:
    return asyncio.run(request(*messages, headers=headers).body(LIMIT))


def refusal(*messages: dict[str, object], headers: dict[str, str] | None = None) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        read(*messages, headers=headers)
    assert refused.value.status == 413
    assert refused.value.reason == "too_large"
    assert "10 bytes (MAX_BODY_BYTES)" in refused.value.message
    return refused.value


def test_a_body_is_read_whole_however_it_is_cut() -> None:
    assert read(chunk(b"")) == b""
    assert read(chunk(b"0123456789")) == b"0123456789"
    assert read(chunk(b"01", more=True), chunk(b"", more=True), chunk(b"2")) == b"012"


def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    assert read(chunk(b"x" * LIMIT)) == b"x" * LIMIT
    assert read(chunk(b"x" * 5, more=True), chunk(b"x" * 5)) == b"x" * LIMIT
    refusal(chunk(b"x" * 11))
    refusal(chunk(b"x" * 5, more=True), chunk(b"x" * 6))


def test_a_body_announced_too_large_is_refused_before_it_is_kept() -> None:
    client = Client([chunk(b"x" * 6, more=True), chunk(b"x" * 6)])
    sent = Request(scope("/predict", headers={"Content-Length": "12"}), client.receive)
    with pytest.raises(ServiceError, match="at most 10 bytes"):
        asyncio.run(sent.body(LIMIT))
    # It was read to its end and thrown away, so that the client gets to read the answer.
    assert client.taken == 2


def test_a_body_larger_than_it_was_announced_is_refused() -> None:
    refusal(chunk(b"x" * 6, more=True), chunk(b"x" * 6), headers={"Content-Length": "6"})


def test_a_chunked_body_without_end_is_refused_and_not_read_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bentos.edge.http._DISCARD_BYTES", 1_000)
    endless = [chunk(b"x" * 100, more=True)] * 100
    error = refusal(*endless)
    assert error.headers == {"Connection": "close"}


def test_a_client_that_asks_before_sending_is_answered_at_once() -> None:
    error = refusal(headers={"Content-Length": "11", "Expect": "100-continue"})
    # What follows on the connection could be the body or another request: nobody can tell.
    assert error.headers == {"Connection": "close"}


def test_an_announcement_that_is_no_number_is_not_believed() -> None:
    assert read(chunk(b"x"), headers={"Content-Length": "-5"}) == b"x"
    assert read(chunk(b"x"), headers={"Content-Length": "many"}) == b"x"


def in_memory(memory: BodyMemory, *messages: dict[str, object]) -> tuple[Request, Client]:
    client = Client(messages)
    return Request(scope("/predict"), client.receive, memory), client


def test_large_bodies_beyond_the_memory_for_all_are_a_429_until_one_is_released() -> None:
    memory = BodyMemory(100)
    first, _ = in_memory(memory, chunk(b"x" * FREE_BYTES, more=True), chunk(b"x" * 80))
    assert len(asyncio.run(first.body(10**6))) == FREE_BYTES + 80
    assert memory.reserved == 80
    second, client = in_memory(
        memory, chunk(b"x" * (FREE_BYTES + 21), more=True), chunk(b"x", more=True), chunk(b"")
    )
    with pytest.raises(ServiceError, match="MAX_BODIES_BYTES") as refused:
        asyncio.run(second.body(10**6))
    assert (refused.value.status, refused.value.reason) == (429, "queue_full")
    assert refused.value.headers == {"Retry-After": "1"}
    assert client.taken == 3  # to its end, so that the client reads the answer
    second.release()
    assert memory.reserved == 80
    first.release()
    first.release()
    assert memory.reserved == 0
    third, _ = in_memory(memory, chunk(b"x" * (FREE_BYTES + 100)))
    assert len(asyncio.run(third.body(10**6))) == FREE_BYTES + 100


def test_small_bodies_have_a_place_however_many_large_ones_there_are() -> None:
    request_, _ = in_memory(BodyMemory(0), chunk(b"x" * FREE_BYTES))
    assert len(asyncio.run(request_.body(10**6))) == FREE_BYTES


def encoded(body: bytes, limit: int, *, encoding: str = "gzip") -> bytes:
    sent = request(chunk(body), headers={"Content-Encoding": encoding})
    return asyncio.run(sent.body(limit))


class TestContentEncoding:
    @pytest.mark.case(38)
    @pytest.mark.parametrize("name", ["gzip", "x-gzip", " GZip "])
    def test_a_gzip_body_is_decoded(self, name: str) -> None:
        """`Content-Encoding: gzip`: the body is what the client compressed."""
        body = b'{"data": [1, 2, 3]}' * 1_000
        assert encoded(gzip.compress(body, mtime=0), len(body), encoding=name) == body
        assert encoded(body, len(body), encoding="identity") == body
        assert encoded(gzip.compress(b"", mtime=0), 100, encoding=name) == b""

    @pytest.mark.case(38)
    def test_the_limit_holds_for_what_is_decoded(self) -> None:
        """A gzip body of exactly MAX_BODY_BYTES decoded is taken, one byte more is a 413."""
        assert len(encoded(gzip.compress(b"x" * 1_000, mtime=0), 1_000)) == 1_000
        with pytest.raises(ServiceError) as refused:
            encoded(gzip.compress(b"x" * 1_001, mtime=0), 1_000)
        assert (refused.value.status, refused.value.reason) == (413, "too_large")

    @pytest.mark.case(38)
    def test_a_gzip_bomb_is_a_413_and_is_never_unpacked(self) -> None:
        """500 MB of zeros in 500 kB of gzip: 413, and no more than the limit is in memory."""
        packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        first, other = (
            packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
        )
        bomb = first + other * 499
        tracemalloc.start()
        try:
            with pytest.raises(ServiceError) as refused:
                encoded(bomb, 1_000_000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert refused.value.status == 413
        assert peak < 10_000_000

    @pytest.mark.case(38)
    def test_what_is_decoded_counts_in_the_memory_for_all_bodies(self) -> None:
        """A gzip body whose content does not fit into the memory for all bodies is a 429."""
        headers = {"Content-Encoding": "gzip"}
        content = gzip.compress(b"x" * (FREE_BYTES + 1_000))
        memory = BodyMemory(999)
        client = Client([chunk(content)])
        sent = Request(scope("/predict", headers=headers), client.receive, memory)
        with pytest.raises(ServiceError) as refused:
            asyncio.run(sent.body(10**6))
        assert refused.value.status == 429

    @pytest.mark.case(38)
    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (gzip.compress(b"x" * 100, mtime=0)[:-9], "cut short"),
            (gzip.compress(b"x" * 100, mtime=0)[:5], "cut short"),
            (b"", "cut short"),
            (b'{"data": []}', "not valid gzip"),
            (zlib.compress(b"x"), "not valid gzip"),
            (gzip.compress(b"x", mtime=0)[:-8] + b"12345678", "not valid gzip"),
            (gzip.compress(b"x", mtime=0) + gzip.compress(b"y", mtime=0), "something follows"),
            (gzip.compress(b"x", mtime=0) + b"y", "something follows"),
        ],
    )
    def test_a_body_that_is_no_whole_gzip_is_a_400_that_says_so(
        self, body: bytes, why: str
    ) -> None:
        """A gzip body that is cut short, damaged or followed by something: 400 with the fault."""
        with pytest.raises(ServiceError, match=why) as refused:
            encoded(body, 1_000)
        assert (refused.value.status, refused.value.reason) == (400, "bad_input")

    @pytest.mark.case(38)
    @pytest.mark.parametrize("name", ["br", "deflate", "zstd", "gzip, gzip", "x" * 1_000, "é"])
    def test_another_encoding_is_a_415_that_names_those_that_are_known(self, name: str) -> None:
        """`Content-Encoding: br` and others: 415, with `Accept-Encoding: gzip`."""
        with pytest.raises(ServiceError, match="with gzip") as refused:
            encoded(b"x", 1_000, encoding=name)
        assert refused.value.status == 415
        assert refused.value.headers["Accept-Encoding"] == "gzip"
        assert len(refused.value.message) < 200


@pytest.mark.parametrize("before", [[], [chunk(b"x", more=True)], [chunk(b"x" * 50, more=True)]])
def test_a_client_that_leaves_is_no_error(before: list[dict[str, object]]) -> None:
    with pytest.raises(ClientDisconnected):
        read(*before, DISCONNECT)


def test_a_request_says_whether_it_waits_for_its_client() -> None:
    async def wait() -> None:
        stalled = request(chunk(b"x", more=True))
        assert not stalled.receiving
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await stalled.body(LIMIT)
        assert stalled.receiving
        whole = request(chunk(b"x"))
        await whole.body(LIMIT)
        assert not whole.receiving

    asyncio.run(wait())


def test_a_usable_request_id_is_kept_and_another_replaced() -> None:
    assert request(headers={"X-Request-ID": "abc-1"}).request_id == "abc-1"
    for unusable in ("", "x" * 129, "line\nbreak", "\x1b[31m", "\xe9"):
        own = request(headers={"X-Request-ID": unusable}).request_id
        assert own != unusable
        assert len(own) == 32
    sent = request()
    assert sent.request_id == sent.request_id
    assert sent.request_id != request().request_id


def test_the_media_type_comes_without_parameters_and_in_lower_case() -> None:
    sent = request(headers={"Content-Type": "Application/JSON ; charset=utf-8"})
    assert sent.content_type == b"application/json"
    assert request().content_type == b""


def test_an_error_has_the_one_shape() -> None:
    error = ServiceError(429, "queue_full", "too many", headers={"Retry-After": "1"}, field="data")
    response = error.response()
    assert response.status == 429
    assert json.loads(response.body) == {
        "error": "too many",
        "reason": "queue_full",
        "field": "data",
    }
    assert response.headers == ((b"retry-after", b"1"),)
    assert response.content_type == b"application/json"


def test_json_is_parsed_or_refused_with_the_position_of_its_fault() -> None:
    assert parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    with pytest.raises(ServiceError, match="line 1 column 8") as refused:
        parse_json(b'{"a": 1,}')
    assert (refused.value.status, refused.value.reason) == (400, "bad_input")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"nonsense",
        b"\xff\xfe",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"\\ud800"',
    ],
)
def test_what_is_no_json_is_a_400(body: bytes) -> None:
    with pytest.raises(ServiceError) as refused:
        parse_json(body)
    assert refused.value.status == 400
    assert refused.value.reason == "bad_input"


def test_a_response_may_have_keys_that_are_no_strings() -> None:
    assert json_response({1: "a"}).body == b'{"1":"a"}'
