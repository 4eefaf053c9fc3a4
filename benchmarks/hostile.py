"""Probes of both services while clients do what they should not: `python -m benchmarks.hostile`.

Each load lasts some seconds, on this machine only, while `/ready` is probed every 20 ms over a new
connection. Exit status: 0 where no probe failed, 1 otherwise.
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

from benchmarks.generator import Generator, check_generator
from benchmarks.logging_service import serve
from benchmarks.measure import start
from benchmarks.model import pictures, prepare_model
from benchmarks.peers.peer import PORTS, Call, Site
from benchmarks.peers.this_project import ThisProject
from benchmarks.probing import Probed, probe, summarize
from bentos.health.probes import METRICS_PATH, READY_PATH
from bentos.inference.state import PREDICT_PATH
from bentos.logging.state import LOG_PATH
from local.process import Server, free_ports

_CLIENTS = 16
_NEW_CONNECTIONS = 256
_IDLE_CONNECTIONS = 2_000
_UPLOADS = 200
_UPLOAD_BYTES = 10_000_000
_CHUNK = b"0" * 65_536
_TINY_CHUNKS = b"1\r\n0\r\n" * 20_000
_MEMORY_EVERY_SECONDS = 0.2
_SETTLE_SECONDS = 2.0
_MIB = 2**20


@dataclass(frozen=True)
class Target:
    """A running service, where its bodies go and one that it takes."""

    name: str
    server: Server
    call: Call
    scratch: Path


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
    print("| service | clients | probes | failed | p50 ms | p99 ms | max ms | peak RSS |")
    print("|---|---|--:|--:|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        for begin in (_inference, _logging):
            with begin(Path(scratch)) as target:
                for load in LOADS:
                    time.sleep(_SETTLE_SECONDS)
                    failed += _measure(target, load, options.seconds)
    return 1 if failed else 0


def _measure(target: Target, load: Load, seconds: float) -> int:
    peak = 0
    ended = threading.Event()
    processes = target.server.processes()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(_MEMORY_EVERY_SECONDS):
            # Not the proportional size, for which the kernel walks all pages and stops the process.
            peak = max(peak, sum(process.memory_info().rss for process in processes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answers = probe(target.server.url, READY_PATH, lambda: load.run(target, seconds))
    finally:
        ended.set()
        watcher.join()
    print(_row(target.name, load.what, summarize(answers), peak), flush=True)
    return summarize(answers).failed


def _row(service: str, what: str, found: Probed, peak: int) -> str:
    return (
        f"| {service} | {what} | {found.probes} | {found.failed} | {found.p50_ms:.1f}"
        f" | {found.p99_ms:.1f} | {found.max_ms:.1f} | {peak / _MIB:.0f} MiB |"
    )


def _drive(path: str, *, body: bytes = b"") -> Callable[[Target, float], None]:
    def run(target: Target, seconds: float) -> None:
        _generate(target, Call(path or target.call.path, body), seconds)

    return run


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

    senders = [threading.Thread(target=send, daemon=True) for _ in range(_CLIENTS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(seconds + _SETTLE_SECONDS)


def _connection(target: Target) -> socket.socket:
    parts = urlsplit(target.server.url)
    return socket.create_connection((str(parts.hostname), parts.port or 80))


LOADS = (
    Load("none", lambda _, seconds: time.sleep(seconds)),
    Load(f"{_CLIENTS}, paths that nobody has", _drive("/wp-login.php")),
    Load(f"{_CLIENTS}, scrapes", _drive(METRICS_PATH)),
    Load(f"{_CLIENTS}, the API's description", _drive("/docs.json")),
    Load(f"{_CLIENTS}, bodies that are wrong", _drive("", body=b'{"nothing": 1}')),
    Load(f"{_NEW_CONNECTIONS}, a new connection for each request", _connect_anew),
    Load(f"{_IDLE_CONNECTIONS:,} connections without a request", _connect_and_wait),
    Load(f"{_UPLOADS} uploads of {_UPLOAD_BYTES / 1e6:.0f} MB at once", _upload),
    Load(f"{_CLIENTS} bodies in chunks of a byte", _send_tiny_chunks),
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
        yield Target("inference", server, Call(PREDICT_PATH, call.body), folder)


@contextmanager
def _logging(scratch: Path) -> Iterator[Target]:
    folder = scratch / "logging"
    with serve(folder, workers=1) as server:
        # Without an id of its own each of these is a prediction more.
        body = (
            b'{"predictions": [{"image_id": "a", "timestamp": 1, "model_version": "1", '
            b'"model_name": "m", "inference_time_ms": 1, "detections": [], '
            b'"defect_detected": false, "confidence_scores": []}], "batch_size": 1, '
            b'"timestamp": 1, "edge_device_id": "hostile"}'
        )
        yield Target("logging", server, Call(LOG_PATH, body), folder)


def _allow_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="each load lasts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
