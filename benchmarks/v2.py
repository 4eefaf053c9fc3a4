"""Binary tensors of the Open Inference Protocol: this project beside Triton, the same client.

Run `python -m benchmarks.v2`. Both serve the same model and are sent the same bytes, which NVIDIA's
own client makes: first by wrk, which costs little beside the servers, then by NVIDIA's client
itself. Their answers are compared with each other first. `--publish` writes docs/v2.md.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray

from benchmarks.environment import DEFAULT, EnvironmentBroken, peers_python
from benchmarks.generator import GeneratorFailed, GeneratorMissing, check_generator, drive
from benchmarks.measure import start
from benchmarks.model import ModelMismatch, ServedModel, pictures, prepare_model
from benchmarks.peers.peer import PORTS, Call, Peer, Site
from benchmarks.peers.this_project import ThisProject
from benchmarks.peers.triton import Triton
from benchmarks.results import FOLDER, Machine, now, this_commit, this_machine
from bentos.inference.v2.messages import HEADER_LENGTH
from local.process import ROOT, Server, StepError, free_ports

PAGE = ROOT / "docs" / "v2.md"
CLIENTS = 16
SIZES = (1, 8)
SAME = 1e-6
_BEGIN, _END = "<!-- benchmark:begin -->\n", "<!-- benchmark:end -->"
_WARM_UP_SECONDS = 2
_OUTPUT = "probabilities"


@dataclass(frozen=True)
class Side:
    """A server, and what the protocol calls its model and its input."""

    peer: Peer
    model: str
    tensor: str


@dataclass(frozen=True)
class Rate:
    """Requests a second of one kind on one server: the median of the rounds, and all of them."""

    server: str
    client: str
    size: int
    requests_per_second: float
    rounds: Sequence[float]
    p99_ms: float = 0.0


@dataclass(frozen=True)
class Results:
    """A whole run."""

    started_at: str
    commit: str
    machine: Machine
    load_before: Sequence[float]
    load_after: Sequence[float]
    seconds: float
    rates: Sequence[Rate]


def request_of(side: Side, rows: NDArray[np.float32]) -> triton.InferInput:
    """Return the input of NVIDIA's client for rows [n, 3, 32, 32]."""
    tensor = triton.InferInput(side.tensor, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=True)
    return tensor


def call_of(side: Side, rows: NDArray[np.float32]) -> Call:
    """Return the request that NVIDIA's client makes of rows, answered with bytes."""
    body, length = triton.InferenceServerClient.generate_request_body(
        [request_of(side, rows)], outputs=[triton.InferRequestedOutput(_OUTPUT)]
    )
    path = f"/v2/models/{side.model}/infer"
    return Call(path, body, "application/octet-stream", {HEADER_LENGTH: str(length)})


def ask(server: Server, call: Call) -> NDArray[np.float32]:
    """Return the probabilities that a server answers, read by NVIDIA's client."""
    headers = {"Content-Type": call.content_type, **call.headers}
    response = httpx.post(
        server.url + call.path, content=call.body, headers=headers, timeout=30, trust_env=False
    )
    if response.status_code != 200:
        raise StepError(f"{call.path} answers {response.status_code}: {response.text[:300]}")
    length = response.headers.get(HEADER_LENGTH)
    found: NDArray[np.float32] = triton.InferenceServerClient.parse_response_body(
        response.content, header_length=int(length)
    ).as_numpy(_OUTPUT)
    return found


async def drive_client(
    server: Server, side: Side, rows: NDArray[np.float32], seconds: float
) -> float:
    """Return the requests a second of NVIDIA's asynchronous client, CLIENTS of them at once."""
    wanted = [triton.InferRequestedOutput(_OUTPUT)]
    address = server.url.removeprefix("http://")
    async with triton_aio.InferenceServerClient(address, conn_limit=CLIENTS) as client:
        ends = time.monotonic() + seconds

        async def one() -> int:
            count = 0
            while time.monotonic() < ends:
                await client.infer(side.model, [request_of(side, rows)], outputs=wanted)
                count += 1
            return count

        started = time.monotonic()
        counts = await asyncio.gather(*(one() for _ in range(CLIENTS)))
        return sum(counts) / (time.monotonic() - started)


def measure(sides: Sequence[Side], site: Site, *, rounds: int, seconds: float) -> list[Rate]:
    """Return the rates of the servers, measured one after the other in each round.

    Raises StepError where their answers differ or a request fails.
    """
    inputs = np.stack([picture.pixels for picture in pictures()])
    found: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    answers: dict[int, NDArray[np.float32]] = {}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            scratch = site.scratch / side.peer.key
            scratch.mkdir(exist_ok=True)
            own = replace(site, ports=free_ports(PORTS), scratch=scratch)
            with start(side.peer, own) as server:
                server.wait_until_answers(side.peer.ready_path)
                for size in SIZES:
                    rows = np.resize(inputs, (size, *inputs.shape[1:]))
                    call = call_of(side, rows)
                    answer = ask(server, call)
                    known = answers.setdefault(size, answer)
                    if not np.allclose(answer, known, rtol=0, atol=SAME):
                        raise StepError(f"{side.peer.title} answers {answer}, not {known}")
                    drive(
                        server.url, call, clients=CLIENTS, seconds=_WARM_UP_SECONDS, scratch=scratch
                    )
                    driven = drive(
                        server.url, call, clients=CLIENTS, seconds=seconds, scratch=scratch
                    )
                    if driven.errors:
                        raise StepError(f"{side.peer.title}: {driven.errors} requests failed")
                    own_client = asyncio.run(drive_client(server, side, rows, seconds))
                    key = (side.peer.key, "wrk", size)
                    found.setdefault(key, []).append((driven.requests_per_second, driven.p99_ms))
                    key = (side.peer.key, "tritonclient", size)
                    found.setdefault(key, []).append((own_client, 0.0))
                    print(
                        f"round {number + 1}: {side.peer.title}, {size} inputs a request: "
                        f"{driven.requests_per_second:.0f} requests/s, "
                        f"with tritonclient {own_client:.0f}",
                        flush=True,
                    )
    return [
        Rate(
            *key,
            median(rate for rate, _ in all_),
            [rate for rate, _ in all_],
            median(p99 for _, p99 in all_),
        )
        for key, all_ in found.items()
    ]


def table(results: Results, titles: Mapping[str, str]) -> str:
    """Return the results as a table, with how many times the first server's rate is the other's."""
    ours, other = titles
    rates = {(rate.server, rate.client, rate.size): rate for rate in results.rates}
    lines = [
        (
            f"{results.started_at}, commit `{results.commit}`: {results.machine.processor}, "
            f"{results.machine.cores} cores, {results.machine.system}. "
            f"{len(results.rates[0].rounds)} rounds, {results.seconds:g} s a rate, {CLIENTS} "
            f"clients; load average before {results.load_before[0]:.2f}."
        ),
        "",
        (
            f"| client | inputs a request | {titles[ours]} | {titles[other]} | times | "
            "p99 of both, ms |"
        ),
        "|---|--:|--:|--:|--:|--:|",
    ]
    for client in ("wrk", "tritonclient"):
        for size in SIZES:
            mine, theirs = rates[ours, client, size], rates[other, client, size]
            times = mine.requests_per_second / theirs.requests_per_second
            p99 = f"{mine.p99_ms:.1f}, {theirs.p99_ms:.1f}" if mine.p99_ms else "-"
            lines.append(
                f"| {client} | {size} | {mine.requests_per_second:,.0f}/s | "
                f"{theirs.requests_per_second:,.0f}/s | {times:.2f} | {p99} |"
            )
    return "\n".join(lines) + "\n"


def publish(text: str) -> None:
    """Write the table into the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(_BEGIN)
    PAGE.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{rest.split(_END)[1]}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.v2", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--environment", type=Path, default=DEFAULT)
    parser.add_argument("--publish", action="store_true", help="write the table into docs/v2.md")
    options = parser.parse_args(arguments)
    try:
        check_generator()
        with tempfile.TemporaryDirectory(prefix="benchmark-v2-") as scratch:
            return _run(options, Path(scratch))
    except (
        EnvironmentBroken,
        GeneratorFailed,
        GeneratorMissing,
        ModelMismatch,
        StepError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: Any, scratch: Path) -> int:
    model = prepare_model(scratch, print)
    sides = [Side(ThisProject(), model.name, "input"), Side(Triton(), "steel", "pixels")]
    site = _site(model, scratch, peers_python(options.environment, print))
    started_at, before = now(), os.getloadavg()
    rates = measure(sides, site, rounds=options.rounds, seconds=options.seconds)
    results = Results(
        started_at=started_at,
        commit=this_commit(),
        machine=this_machine(),
        load_before=before,
        load_after=os.getloadavg(),
        seconds=options.seconds,
        rates=rates,
    )
    (FOLDER / "v2.json").write_text(json.dumps(asdict(results)) + "\n")
    text = table(results, {side.peer.key: side.peer.title for side in sides})
    print(f"\n{text}")
    if options.publish:
        publish(text)
    return 0


def _site(model: ServedModel, scratch: Path, python: Path) -> Site:
    return Site(free_ports(PORTS), scratch, model, Path(sys.executable), python)


if __name__ == "__main__":
    sys.exit(main())
