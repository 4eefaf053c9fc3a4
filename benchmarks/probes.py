"""Probes on both ports of both services, whatever clients do: `python -m benchmarks.probes`.

Each load lasts some seconds, on this machine only. Meanwhile `/ready` is asked every 20 ms, over a
new connection each time, on the probe port, on the service's own port and at a bare socket, which
tells what the machine itself takes. Exit status: 0 where no probe failed on the probe port, else 1.
"""

import argparse
import resource
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from benchmarks import hostile
from benchmarks.generator import Generator, check_generator
from benchmarks.logging_service import serve
from benchmarks.measure import Loads, start
from benchmarks.model import ServedModel, large_png, pictures, prepare_model, register_again
from benchmarks.peers.peer import PORTS, Call, Site
from benchmarks.peers.this_project import ThisProject, probe_url
from benchmarks.probing import Probed, bare_server, probe_all, summarize
from bentos.health.probes import METRICS_PATH, READY_PATH
from bentos.inference.state import PREDICT_IMAGE_PATH, PREDICT_PATH
from bentos.logging.state import LOG_PATH
from local.process import Server, free_port, free_ports

_CLIENTS = 16
_POSTERS = 3
_NEW_CONNECTIONS = 256
_IDLE_CONNECTIONS = 2_000
_UPLOADS = 200
_UPLOAD_BYTES = 10_000_000
_CHUNK = b"0" * 65_536
_TINY_CHUNKS = b"1\r\n0\r\n" * 20_000
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class Target:
    """A running service, where it is probed, a request that it takes, and the model it serves."""

    name: str
    server: Server
    probe_url: str
    call: Call
    scratch: Path
    model: ServedModel | None = None


@dataclass(frozen=True)
class Load:
    """What clients do for so many seconds."""

    what: str
    run: Callable[[Target, float], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both services under every load; return the exit status."""
    options = _parser().parse_args(arguments)
    check_generator()
    _allow_many_files()
    failed = 0
    print(
        "| service | clients | asked at | probes | failed | p50 ms | p99 ms | p99.9 ms | max ms |"
    )
    print("|---|---|---|--:|--:|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="probes-") as scratch:
        for begin, further in ((_inference, INFERENCE), (_logging, LOGGING)):
            with begin(Path(scratch)) as target:
                for load in (*COMMON, *further):
                    if options.only in load.what:
                        time.sleep(_SETTLE_SECONDS)
                        failed += _measure(target, load, options.seconds)
    return 1 if failed else 0


def _measure(target: Target, load: Load, seconds: float) -> int:
    """Print a line for each place that was asked; return the probe port's failures."""
    with bare_server() as bare:
        urls = [target.probe_url + READY_PATH, target.server.url + READY_PATH, bare]
        answers = probe_all(urls, lambda: load.run(target, seconds), interval_seconds=0.02)
    found = [summarize(each) for each in answers]
    for place, one in zip(("probe port", "its own port", "a bare socket"), found, strict=True):
        print(_row(target.name, load.what, place, one), flush=True)
    ratio = found[0].p99_ms / found[2].p99_ms
    print(f"| | | p99 of the probe port is {ratio:.2f} times the bare socket's | | | | | | |")
    return found[0].failed


def _row(service: str, what: str, place: str, found: Probed) -> str:
    return (
        f"| {service} | {what} | {place} | {found.probes} | {found.failed} | {found.p50_ms:.1f}"
        f" | {found.p99_ms:.1f} | {found.p999_ms:.1f} | {found.max_ms:.1f} |"
    )


def _drive(path: str, *, body: bytes = b"") -> Callable[[Target, float], None]:
    def run(target: Target, seconds: float) -> None:
        _generate(target, Call(path or target.call.path, body), seconds)

    return run


def _saturate(target: Target, seconds: float) -> None:
    _generate(target, target.call, seconds)


def _send_images(target: Target, seconds: float) -> None:
    _generate(target, Call(PREDICT_IMAGE_PATH, large_png(), "image/png"), seconds)


def _load_models(target: Target, seconds: float) -> None:
    assert target.model is not None
    with Loads(target.model, register_again(target.model)):
        _saturate(target, seconds)


def _post(path: str, make: Callable[[], bytes]) -> Callable[[Target, float], None]:
    """Post the same body again and again, three at a time."""

    def run(target: Target, seconds: float) -> None:
        body, ends = make(), time.monotonic() + seconds

        def post() -> None:
            while time.monotonic() < ends:
                with suppress(httpx.HTTPError):
                    httpx.post(
                        target.server.url + path, content=body, timeout=60.0, trust_env=False
                    )

        _together(post, _POSTERS, seconds)

    return run


def _pictures(what: str, make: Callable[[], bytes]) -> Load:
    return Load(f"{_POSTERS}, {what}", _post(PREDICT_IMAGE_PATH, make))


def _batches(what: str, make: Callable[[], bytes]) -> Load:
    return Load(f"{_POSTERS}, {what}", _post(LOG_PATH, make))


def _send_raw(make: Callable[[], bytes]) -> Callable[[Target, float], None]:
    def run(target: Target, seconds: float) -> None:
        data, ends = make(), time.monotonic() + seconds

        def send() -> None:
            while time.monotonic() < ends:
                with suppress(OSError), _connection(target) as connection:
                    connection.sendall(data)

        _together(send, _POSTERS, seconds)

    return run


def _together(work: Callable[[], None], count: int, seconds: float) -> None:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + _SETTLE_SECONDS)


def _connect_anew(target: Target, seconds: float) -> None:
    call = Call(target.call.path, target.call.body, headers={"Connection": "close"})
    _generate(target, call, seconds, clients=_NEW_CONNECTIONS)


def _generate(target: Target, call: Call, seconds: float, *, clients: int = _CLIENTS) -> None:
    Generator(
        target.server.url, call, clients=clients, seconds=seconds, scratch=target.scratch
    ).result()


def _connect_and_wait(target: Target, seconds: float) -> None:
    connections = [_connection(target) for _ in range(_IDLE_CONNECTIONS)]
    time.sleep(seconds)
    for connection in connections:
        connection.close()


def _upload(target: Target, seconds: float) -> None:
    """Send many large bodies at once and as fast as they are taken, and never end them."""
    head = (
        f"POST {target.call.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {_UPLOAD_BYTES}\r\n\r\n"
    )
    connections = [_connection(target) for _ in range(_UPLOADS)]

    def send(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(head.encode())
            for _ in range(_UPLOAD_BYTES // len(_CHUNK)):
                connection.sendall(_CHUNK)

    senders = [
        threading.Thread(target=send, args=(connection,), daemon=True) for connection in connections
    ]
    for sender in senders:
        sender.start()
    time.sleep(seconds)
    for connection in connections:
        connection.close()


def _send_tiny_chunks(target: Target, seconds: float) -> None:
    """Send bodies whose every byte is a chunk of its own."""
    ends = time.monotonic() + seconds
    head = f"POST {target.call.path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    def send() -> None:
        while time.monotonic() < ends:
            with suppress(OSError), _connection(target) as connection:
                connection.sendall(head.encode())
                while time.monotonic() < ends:
                    connection.sendall(_TINY_CHUNKS)

    _together(send, _CLIENTS, seconds)


def _connection(target: Target) -> socket.socket:
    parts = urlsplit(target.server.url)
    return socket.create_connection((str(parts.hostname), parts.port or 80))


COMMON = (
    Load("nothing", lambda _, seconds: time.sleep(seconds)),
    Load("16 clients, its own requests", _saturate),
    Load(f"{_CLIENTS}, paths that nobody has", _drive("/wp-login.php")),
    Load(f"{_CLIENTS}, scrapes", _drive(METRICS_PATH)),
    Load(f"{_CLIENTS}, the API's description", _drive("/docs.json")),
    Load(f"{_CLIENTS}, bodies that are wrong", _drive("", body=b'{"nothing": 1}')),
    Load(f"{_NEW_CONNECTIONS}, a new connection for each request", _connect_anew),
    Load(f"{_IDLE_CONNECTIONS:,} connections without a request", _connect_and_wait),
    Load(f"{_UPLOADS} uploads of {_UPLOAD_BYTES / 1e6:.0f} MB at once", _upload),
    Load(f"{_CLIENTS} bodies in chunks of a byte", _send_tiny_chunks),
    Load("heads of 30 MB", _send_raw(lambda: hostile.huge_header(30_000_000))),
    Load("heads of two million headers", _send_raw(lambda: hostile.many_headers(2_000_000))),
)
INFERENCE = (
    Load("16 clients, images of 500 kB", _send_images),
    Load("16 clients, model loads meanwhile", _load_models),
    _pictures("PNG of 800,000 chunks", lambda: hostile.png_with_chunks(800_000)),
    _pictures("JPEG of 2.4 million comments", lambda: hostile.jpeg_with_comments(2_400_000)),
    _pictures("JPEG of 10 MB of scans", lambda: hostile.jpeg_with_scans(10_000_000)),
)
LOGGING = (
    _batches("batches of 10 MB with a NUL last", lambda: hostile.batch_with_late_nul(10_000_000)),
    _batches("batches of 10 MB of lists", lambda: hostile.batch_with_nested_lists(10_000_000)),
)


@contextmanager
def _inference(scratch: Path) -> Iterator[Target]:
    model = prepare_model(scratch, lambda line: print(line, file=sys.stderr))
    peer = ThisProject()
    folder = scratch / "inference"
    folder.mkdir()
    site = Site(free_ports(PORTS), folder, model, Path(sys.executable), Path(sys.executable))
    with start(peer, site) as server:
        server.wait_until_answers(READY_PATH)
        call = peer.json_call(pictures()[0].pixels)
        yield Target(
            "inference", server, probe_url(site), Call(PREDICT_PATH, call.body), folder, model
        )


@contextmanager
def _logging(scratch: Path) -> Iterator[Target]:
    folder = scratch / "logging"
    probe_port = free_port()
    with serve(folder, workers=1, probe_port=probe_port) as server:
        # Without an id of its own each of these is a prediction more.
        body = (
            b'{"predictions": [{"image_id": "a", "timestamp": 1, "model_version": "1", '
            b'"model_name": "m", "inference_time_ms": 1, "detections": [], '
            b'"defect_detected": false, "confidence_scores": []}], "batch_size": 1, '
            b'"timestamp": 1, "edge_device_id": "hostile"}'
        )
        url = f"http://127.0.0.1:{probe_port}"
        yield Target("logging", server, url, Call(LOG_PATH, body), folder)


def _allow_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="each load lasts")
    parser.add_argument("--only", default="", help="loads whose name has this in it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
