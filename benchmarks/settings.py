"""One service under two settings, side by side: `python -m benchmarks.settings traces`.

Both run at once and are driven in turns, so that what else the machine does meets both. The
processor time of a request depends least on that.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from benchmarks.generator import check_generator, drive
from benchmarks.logging_service import serve
from benchmarks.measure import start
from benchmarks.model import ServedModel, pictures, prepare_model
from benchmarks.peers.peer import PORTS, Call, Launch, Site
from benchmarks.peers.this_project import ThisProject
from bentos.health.probes import READY_PATH
from examples.demo_model import ensure_model
from examples.steel_images import class_names
from local.process import Server, free_ports

_CLIENTS = (1, 16, 64)
_ALL_TO_REVIEW = json.dumps(dict.fromkeys(class_names(), 1.0))


class _Sink(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def _traces(scratch: Path) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """No traces, and one request of a hundred sent to a collector."""
    sink = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{sink.server_port}/v1/traces"
    tracing = {
        "exporter_type": "otlp",
        "sample_rate": 0.01,
        "otlp": {"protocol": "http", "endpoint": url},
    }
    settings = scratch / "bentoml.yaml"
    settings.write_text(json.dumps({"services": {"tracing": tracing}}))
    try:
        yield {"none": {}, "1% sampled": {"BENTOML_CONFIG": str(settings)}}
    finally:
        sink.shutdown()


@contextmanager
def _acknowledgement(scratch: Path) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """A prediction answered before it is on disk, and after; both go to a logging service."""
    with serve(scratch / "logging", workers=1) as logging:
        destination = {"LOGGING_URL": logging.url}
        yield {ack: {**destination, "PREDICTION_ACK": ack} for ack in ("fast", "durable")}


@contextmanager
def _pictures(scratch: Path) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """No picture kept for review, and each of them that can be sent: none of them passes."""
    with serve(scratch / "logging", workers=1) as logging:
        destination = {"LOGGING_URL": logging.url, "THRESHOLDS": _ALL_TO_REVIEW}
        yield {"none kept": destination, "all kept": {**destination, "KEEP_IMAGES": "true"}}


@contextmanager
def _shadow(_: Path) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """No challenger, and one that is asked a tenth of the requests: the served version, again."""
    version = ensure_model(lambda _line: None)
    yield {"no challenger": {}, "a challenger": {"SHADOW_STAGE": version}}


COMPARED = {
    "traces": _traces,
    "acknowledgement": _acknowledgement,
    "pictures": _pictures,
    "shadow": _shadow,
}


class _WithSettings(ThisProject):
    """This project's inference service with further settings."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        super().__init__()
        self._settings = settings

    def launch(self, site: Site) -> Launch:
        """Serve as the other benchmarks do, with the settings on top."""
        launch = super().launch(site)
        return replace(launch, environment={**launch.environment, **self._settings})


@dataclass(frozen=True)
class _Run:
    rate: float
    p99_ms: float
    cpu_microseconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print a table and return the exit status."""
    options = _parser().parse_args(arguments)
    check_generator()
    with tempfile.TemporaryDirectory(prefix="settings-") as folder:
        scratch = Path(folder)
        model = prepare_model(scratch, lambda line: print(line, file=sys.stderr))
        with COMPARED[options.what](scratch) as settings, ExitStack() as running:
            servers = {
                name: running.enter_context(_start(scratch / f"server-{index}", model, given))
                for index, (name, given) in enumerate(settings.items())
            }
            for name, server in servers.items():
                server.wait_until_answers(READY_PATH)
                if "SHADOW_STAGE" in settings[name]:
                    server.wait_until(partial(_has_challenger, server.url), "a challenger")
            _compare(servers, _call(options.what), options.rounds, options.seconds, scratch)
    return 0


def _has_challenger(url: str) -> bool:
    return "inference_shadow_model_info{" in httpx.get(f"{url}/metrics", trust_env=False).text


def _start(folder: Path, model: ServedModel, settings: Mapping[str, str]) -> Server:
    folder.mkdir()
    site = Site(free_ports(PORTS), folder, model, Path(sys.executable), Path(sys.executable))
    return start(_WithSettings(settings), site)


def _call(what: str) -> Call:
    picture = pictures()[0]
    peer = ThisProject()
    return peer.image_call(picture.png) if what == "pictures" else peer.json_call(picture.pixels)


def _compare(
    servers: Mapping[str, Server], call: Call, rounds: int, seconds: float, scratch: Path
) -> None:
    print("| clients | setting | requests/s | times | p99 ms | CPU µs a request | times |")
    print("|--:|---|--:|--:|--:|--:|--:|", flush=True)
    for clients in _CLIENTS:
        runs: dict[str, list[_Run]] = {name: [] for name in servers}
        for turn in range(rounds):
            for name in list(servers)[:: -1 if turn % 2 else 1]:
                runs[name].append(_run(servers[name], call, clients, seconds, scratch))
        found = {name: _median(each) for name, each in runs.items()}
        first = next(iter(found.values()))
        for name, run in found.items():
            print(
                f"| {clients} | {name} | {run.rate:.0f} | {run.rate / first.rate:.3f} |"
                f" {run.p99_ms:.1f} | {run.cpu_microseconds:.0f} |"
                f" {run.cpu_microseconds / first.cpu_microseconds:.3f} |",
                flush=True,
            )


def _run(server: Server, call: Call, clients: int, seconds: float, scratch: Path) -> _Run:
    before = server.cpu_seconds()
    driven = drive(server.url, call, clients=clients, seconds=seconds, scratch=scratch)
    after = server.cpu_seconds()
    used = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
    return _Run(driven.requests_per_second, driven.p99_ms, used / driven.requests * 1e6)


def _median(runs: Sequence[_Run]) -> _Run:
    columns = zip(*((run.rate, run.p99_ms, run.cpu_microseconds) for run in runs), strict=True)
    return _Run(*(statistics.median(column) for column in columns))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.settings", description=__doc__)
    parser.add_argument("what", choices=COMPARED, help="what is compared")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="each run lasts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
