"""Measures one server in one round, from its start to its end."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.apps.shared import MODEL_VARIABLE
from benchmarks.generator import Driven, Generator, drive
from benchmarks.model import Picture, ServedModel, large_png, point_alias
from benchmarks.peers.peer import PORTS, Call, Peer, Site
from benchmarks.probing import bare_server, probe_all, probe_idle
from bentos.health.probes import METRICS_PATH
from local.prober import Answer
from local.process import ROOT, Memory, Server, StepError, clean_environment, free_ports

_LOADS_EVERY_SECONDS = 2.0
_WORTH_NAMING = 0.05
# Servers compute in another order of additions; a class may not differ for that, nor this much.
_SAME_CONFIDENCE = 1e-3


@dataclass(frozen=True)
class Plan:
    """Times in seconds. Every round starts every server anew, one after the other."""

    rounds: int
    clients: tuple[int, ...]
    warm_up: float
    rate: float
    idle_probes: float
    loaded_probes: float
    saturating_clients: int = 16


FULL = Plan(rounds=3, clients=(1, 8, 16, 64), warm_up=3, rate=6, idle_probes=5, loaded_probes=20)
QUICK = Plan(rounds=1, clients=(1, 8, 16, 64), warm_up=1, rate=2, idle_probes=2, loaded_probes=4)


@dataclass(frozen=True)
class Round:
    """What one server did in one round.

    `extra_probes` are by what went on meanwhile; `bare_probes` are those of a bare socket while
    the server was saturated, which tell what the machine itself takes.
    """

    first_health_seconds: float
    first_ready_seconds: float
    json: Sequence[Driven]
    binary: Driven | None
    image: Driven | None
    idle_probes: Sequence[Answer]
    loaded_probes: Sequence[Answer]
    bare_probes: Sequence[Answer]
    extra_probes: dict[str, Sequence[Answer]]
    cpu_microseconds: float
    memory: Memory
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """What every round has in common."""

    plan: Plan
    model: ServedModel
    second_version: str
    pictures: Sequence[Picture]
    expected: Sequence[tuple[int, float]]
    python: Path
    peers_python: Path
    scratch: Path


def measure(peer: Peer, bench: Bench, report: Callable[[str], None]) -> Round:
    """Start a server, check its answers, measure it and end it.

    Raises StepError where it does not start or predicts something else than the model.
    """
    scratch = bench.scratch / peer.key
    scratch.mkdir(parents=True, exist_ok=True)
    site = Site(free_ports(PORTS), scratch, bench.model, bench.python, bench.peers_python)
    with start(peer, site) as server:
        health = server.wait_until_answers(peer.health_path)
        ready = server.wait_until_answers(peer.ready_path)
        report(f"ready after {ready:.1f} s")
        check_answers(peer, server, bench)
        return _measure(peer, server, bench, report, scratch, (health, ready))


def start(peer: Peer, site: Site) -> Server:
    """Start a server with the settings that all of them share."""
    launch = peer.launch(site)
    environment = clean_environment(
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        PYTHONPATH=str(ROOT),
        PYTHONUNBUFFERED="1",
        MLFLOW_DISABLE_TELEMETRY="true",
        BENTOML_DO_NOT_TRACK="True",
        LOG_LEVEL="WARNING",
        # MLflow makes a store in the working directory where it is told of none.
        MLFLOW_TRACKING_URI=site.model.tracking_uri,
    )
    environment[MODEL_VARIABLE] = str(site.model.files)
    return Server(
        launch.command,
        port=site.port,
        log=site.scratch / "server.log",
        environment={**environment, **launch.environment},
    )


def check_answers(peer: Peer, server: Server, bench: Bench) -> None:
    """Raise StepError unless every kind of request is answered as the bare model does."""
    with httpx.Client(base_url=server.url, timeout=30.0, trust_env=False) as client:
        for picture, (index, confidence) in zip(bench.pictures, bench.expected, strict=True):
            calls = (
                peer.json_call(picture.pixels),
                peer.binary_call(picture.pixels),
                peer.image_call(picture.png),
            )
            for call in calls:
                if call is None:
                    continue
                answer = _send(client, call)
                if answer.status_code != 200:
                    raise StepError(
                        f"{call.path} ({call.content_type}) answers {answer.status_code}: "
                        f"{answer.text[:300]}\n{server.tail()}"
                    )
                found = peer.read(answer.content)
                if found.class_index != index or not math.isclose(
                    found.confidence, confidence, abs_tol=_SAME_CONFIDENCE
                ):
                    raise StepError(
                        f"{call.path} ({call.content_type}) says {found}, "
                        f"the model says {index} with {confidence:.6f}"
                    )


def _send(client: httpx.Client, call: Call) -> httpx.Response:
    headers = {"Content-Type": call.content_type, **call.headers}
    return client.post(call.path, content=call.body, headers=headers)


def _measure(
    peer: Peer,
    server: Server,
    bench: Bench,
    report: Callable[[str], None],
    scratch: Path,
    started: tuple[float, float],
) -> Round:
    plan = bench.plan
    picture = bench.pictures[0]
    call = peer.json_call(picture.pixels)
    idle = probe_idle(server.url, peer.ready_path, plan.idle_probes)
    many = plan.saturating_clients
    ready_url = server.url + peer.ready_path

    def driven(what: Call, clients: int, seconds: float) -> Driven:
        return drive(server.url, what, clients=clients, seconds=seconds, scratch=scratch)

    driven(call, many, plan.warm_up)
    rates = []
    notes: list[str] = []
    cpu = math.nan
    for clients in plan.clients:
        before = server.cpu_seconds()
        rates.append(driven(call, clients, plan.rate))
        report(f"{clients:3} clients: {rates[-1].requests_per_second:6.0f} requests/s")
        if clients == many and rates[-1].requests:
            used = _difference(before, server.cpu_seconds())
            cpu = sum(used) / rates[-1].requests * 1e6
            notes += _shares(used, many)
    binary, image = peer.binary_call(picture.pixels), peer.image_call(picture.png)
    binary_rate = driven(binary, many, plan.rate) if binary else None
    image_rate = driven(image, many, plan.rate) if image else None
    with bare_server() as bare_url:
        loaded, bare = _probe_under(server, [ready_url, bare_url], call, plan, scratch)
    extra: dict[str, Sequence[Answer]] = {}
    large = peer.image_call(large_png()) if peer.probed_further else None
    if large is not None:
        (extra["images of 500 kB"],) = _probe_under(server, [ready_url], large, plan, scratch)
        with Loads(bench.model, bench.second_version) as loads:
            (extra["model loads"],) = _probe_under(server, [ready_url], call, plan, scratch)
        notes.append(f"the alias moved {loads.moves} times; {_loads_total(server)} loads in all")
    return Round(
        first_health_seconds=started[0],
        first_ready_seconds=started[1],
        json=rates,
        binary=binary_rate,
        image=image_rate,
        idle_probes=idle,
        loaded_probes=loaded,
        bare_probes=bare,
        extra_probes=extra,
        cpu_microseconds=cpu,
        memory=server.memory(),
        notes=notes,
    )


def _difference(before: Mapping[int, float], after: Mapping[int, float]) -> list[float]:
    return sorted((used - before.get(pid, 0.0) for pid, used in after.items()), reverse=True)


def _shares(used: Sequence[float], clients: int) -> list[str]:
    """Return how several processes share the work, in words; nothing where one does it all."""
    busy = [share for one in used if (share := one / (sum(used) or 1)) >= _WORTH_NAMING]
    if len(busy) < 2:
        return []
    shares = ", ".join(f"{share:.0%}" for share in busy)
    return [f"its processes' shares of the processor time under {clients} clients: {shares}"]


def _probe_under(
    server: Server, urls: Sequence[str], call: Call, plan: Plan, scratch: Path
) -> list[list[Answer]]:
    """Probe while the saturating clients send; what falls before or after does not count."""
    generator = Generator(
        server.url,
        call,
        clients=plan.saturating_clients,
        seconds=plan.loaded_probes,
        scratch=scratch,
    )
    driven: list[Driven] = []
    answers = probe_all(urls, lambda: driven.append(generator.result()))
    if driven[0].errors:
        raise StepError(f"{driven[0].errors} of {driven[0].requests} requests failed")
    return answers


class Loads:
    """Moves the alias between two versions again and again, until the `with` block ends."""

    def __init__(self, model: ServedModel, second: str) -> None:
        self._model = model
        self._second = second
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._move)
        self.moves = 0

    def __enter__(self) -> "Loads":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        point_alias(self._model, self._model.version)

    def _move(self) -> None:
        while not self._ended.wait(_LOADS_EVERY_SECONDS):
            self.moves += 1
            version = self._second if self.moves % 2 else self._model.version
            point_alias(self._model, version)


def _loads_total(server: Server) -> int:
    text = httpx.get(server.url + METRICS_PATH, timeout=10.0, trust_env=False).text
    return round(
        sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("inference_model_loads_total{")
        )
    )
