"""An inference host, a logging host and the network between them, in virtual time.

Outbox, writer, sender, salvage, the logging service's parser and its database are the real classes;
clocks, threads and the network are not, and disks fail when they are told to. All that happens
follows from a seed: what is predicted, in the middle of what a process is killed, what becomes of
each request, and where the clocks stand.
"""

import asyncio
import heapq
import random
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import orjson

from bentos.edge.http import ServiceError
from bentos.inference.delivery import files as files_module
from bentos.inference.delivery.files import Limits, OutboxFiles
from bentos.inference.delivery.outbox import (
    Outbox,
    files_to_adopt,
    outbox_path,
    outboxes_in,
)
from bentos.inference.delivery.sender import Reply, Sender
from bentos.inference.delivery.writer import OutboxWriter
from bentos.inference.state import InferenceState
from bentos.logging.request import BatchParser
from bentos.logging.store.database import Conflict
from bentos.logging.store.sqlite import SqliteDatabase

TODAY = 1_760_000_000.0
# For so long faults happen, and for so long after them everything has to be delivered.
FAULTS_SECONDS = 120.0
HEALING_SECONDS = 4 * 3_600.0
_TIMEOUT_SECONDS = 5.0
_IDLE_SECONDS = 15.0
_LIMITS = Limits(max_rows=10_000, max_bytes=64 << 20)
_DAMAGE = b"\xff" * 100

DiskFault = Literal["", "full", "failing"]
Manner = Literal["", "unauthorized", "unavailable", "envelope", "proxy", "captive"]


class Killed(BaseException):
    """The process that runs this ends here and now."""


class PromiseBroken(AssertionError):  # noqa: N818
    """A promise was not kept."""


@dataclass
class Plan:
    """What a seed has in store: how often what goes wrong."""

    predictions: int
    kills: float
    losses: float
    duplicates: float
    damage: float
    clocks: float

    @classmethod
    def of(cls, chance: random.Random) -> "Plan":
        """Return a plan: each kind of fault may be absent, rare or frequent."""
        pick = chance.choice
        return cls(
            predictions=chance.randrange(5, 30),
            kills=pick((0.0, 0.01, 0.05)),
            losses=pick((0.0, 0.1, 0.5)),
            duplicates=pick((0.0, 0.1, 0.5)),
            damage=pick((0.0, 0.0, 0.5)),
            clocks=pick((0.0, 0.1)),
        )


@dataclass
class _Waiter:
    """A request that waits until its prediction is on disk, in the place of a future."""

    name: str
    answered: Callable[[str], None]

    def done(self) -> bool:
        return False

    def set_result(self, _: None) -> None:
        self.answered(self.name)

    def set_exception(self, _: BaseException) -> None:
        """Note nothing: nothing was promised."""


class _DirectLoop:
    """In the place of an event loop: it calls at once."""

    def call_soon_threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        call(*arguments)


class _Writer(OutboxWriter):
    """The writer without its thread: `turn` is what the thread does once."""

    def __init__(self, path: Path, state: InferenceState, adopt: Sequence[Path]) -> None:
        super().__init__(path, _LIMITS, state, adopt=adopt)
        self._loop = _DirectLoop()  # type: ignore[assignment]

    def turn(self) -> None:
        self.write(*self.take(wait_seconds=0.0))
        self.look_after()

    def _wait_for(self, done: threading.Event) -> None:
        while not done.is_set():
            self.turn()


def _faulty(world: "World") -> type[Outbox]:
    """Return outboxes in whose midst the process may be killed, on a disk that may fail."""

    def faulty(name: str) -> Callable[..., Any]:
        method = getattr(Outbox, name)

        def write(outbox: Outbox, *arguments: Any) -> Any:
            with world.inference.disk_access():
                return method(outbox, *arguments)

        return write

    writes = ("add", "apply", "adopt", "try_to_write")
    return type("FaultyOutbox", (Outbox,), {name: faulty(name) for name in writes})


def _left_by_a_killed_process(directory: Path) -> Path:
    """Return a copy of its files: its connections would tidy them up when they are closed."""
    copied = directory.with_name(str(int(directory.name) + 1))
    copied.mkdir()
    for file in directory.iterdir():
        if not file.name.endswith("-shm"):
            shutil.copyfile(file, copied / file.name)
    return copied


class InferenceHost:
    """Predictions come here; its process may be killed and is started again on its files."""

    def __init__(self, world: "World", directory: Path) -> None:
        self._world = world
        self.directory = directory / "0"
        self.directory.mkdir(parents=True)
        self.writer: _Writer | None = None
        self.clock_offset = 0.0
        self.disk_fault: DiskFault = ""

    @contextmanager
    def disk_access(self) -> Iterator[None]:
        """Surround a write to the disk by what may go wrong."""
        self._world.may_kill()
        if self.disk_fault:
            full = self.disk_fault == "full"
            error = sqlite3.OperationalError(f"the disk is {self.disk_fault}")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
            raise error
        yield
        self._world.may_kill()

    def start(self) -> None:
        """Start the process on the files that are there."""
        world = self._world
        adopt = files_to_adopt(self.directory, worker=1, workers=1)
        writer = self.writer = _Writer(outbox_path(self.directory, 1), world.state, adopt)
        sender = Sender(
            writer,
            world.network,
            world.state,
            edge_device_id="line-7",
            timeout_seconds=_TIMEOUT_SECONDS,
            clock=self.wall_clock,
        )

        def send() -> None:
            try:
                pause = sender.step()
            except (sqlite3.Error, OSError):
                pause = 1.0
            again(_IDLE_SECONDS if pause is None else pause, send)

        def turn() -> None:
            writer.turn()
            again(_IDLE_SECONDS, turn)

        def again(seconds: float, action: Callable[[], None]) -> None:
            def happen() -> None:
                if self.writer is writer:
                    self.guarded(action)

            world.at(seconds, happen)

        again(0.0, turn)
        again(0.0, send)

    def guarded(self, action: Callable[[], None]) -> None:
        """Do what the process does; it may be killed in the middle of it."""
        try:
            action()
        except Killed:
            self.killed()

    def wall_clock(self) -> float:
        """Return the host's own time, which may be far off."""
        return TODAY + self._world.now + self.clock_offset

    def predict(self, record: dict[str, object]) -> None:
        """Offer a prediction, as a request does."""
        if self.writer is None:
            return
        waiter = _Waiter(str(record["image_id"]), self._world.answered.add)
        with suppress(ServiceError):
            self.writer.offer([orjson.dumps(record)], waiter)  # type: ignore[arg-type]

    def killed(self) -> None:
        """Leave the files as they stand in this moment, and start again later."""
        if self.writer is None:
            return
        self._world.counts["inference killed"] += 1
        left = _left_by_a_killed_process(self.directory)
        self.close()
        self.directory = left
        chance, path = self._world.chance, outbox_path(left, 1)
        if chance.random() < self._world.plan.damage and path.exists():
            self._world.counts["outbox damaged"] += 1
            with path.open("r+b") as damaged:
                damaged.write(_DAMAGE)
        self._world.at(chance.uniform(0.1, 20.0), self.start)

    def close(self) -> None:
        """Forget the process that runs."""
        if self.writer is not None:
            self.writer.close_reader()
            self.writer._files.close()
            adopted = self.writer._files._adopted
            if adopted is not None:
                adopted.close()
            self.writer = None


class LoggingHost:
    """Takes batches; its process may be killed before or after a commit."""

    def __init__(self, world: "World", directory: Path, template: Path) -> None:
        self._world = world
        self._directory = directory / "0"
        self._directory.mkdir(parents=True)
        shutil.copyfile(template, self.path)
        self._parser = BatchParser(max_predictions=10_000)
        self._database: SqliteDatabase | None = None
        self.manner: Manner = ""

    @property
    def path(self) -> Path:
        """The database."""
        return self._directory / "predictions.db"

    def start(self) -> None:
        """Open the database that is there."""
        self._database = SqliteDatabase(self.path, busy_timeout_seconds=1.0)
        self._database.open()

    def receive(self, body: bytes) -> Reply:
        """Return the answer to a request; status 0 where the process is gone, or goes now."""
        try:
            return self._receive(body)
        except Killed:
            self.killed()
            return Reply(0, "the connection was reset")
        except ServiceError as refusal:
            return Reply(
                refusal.status,
                refusal.message,
                reason=refusal.reason,
                field=str(refusal.details.get("field", "")),
            )

    def _receive(self, body: bytes) -> Reply:
        if self._database is None:
            return Reply(0, "connection refused")
        match self.manner:
            case "unauthorized":
                raise ServiceError(401, "unauthorized", "no valid token")
            case "unavailable":
                raise ServiceError(503, "database_not_accessible", "the database fails")
            case "envelope":
                raise ServiceError(400, "bad_input", "timestamp: wrong", field="timestamp")
            case "proxy":
                return Reply(self._world.chance.choice((400, 404, 413, 502)), "<html>")
            case "captive":
                return Reply(200, "<html>")
        rows = self._world.loop.run_until_complete(self._parser.parse(body, request_id="r")).rows
        self._world.may_kill()
        (outcome,) = self._database.write([rows])
        self._world.may_kill()
        if isinstance(outcome, Conflict):
            path = f"predictions[{outcome.index}].prediction_id"
            raise ServiceError(409, "conflict", f"{path}: another's", field=path)
        self._world.counts["duplicates ignored"] += outcome.duplicates
        return Reply(200, reason="", success=True)

    def killed(self) -> None:
        """Leave the files as they stand in this moment, and start again later."""
        if self._database is None:
            return
        self._world.counts["logging killed"] += 1
        left = _left_by_a_killed_process(self._directory)
        self.close()
        self._directory = left
        self._world.at(self._world.chance.uniform(0.1, 30.0), self.start)

    def close(self) -> None:
        """Forget the process that runs."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def stored(self) -> list[tuple[str, str]]:
        """Return the ids and image ids of all rows."""
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute("SELECT prediction_id, image_id FROM predictions")
            return [(str(row[0]), str(row[1])) for row in rows]


class Network:
    """Loses, doubles, delays and reorders requests, and loses answers."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def post(self, body: bytes, *, seconds: float) -> Reply:
        """Send a request; while it is under way, other things happen."""
        world, chance = self._world, self._world.chance
        writer = world.inference.writer
        lost = world.faulty and chance.random() < world.plan.losses
        if world.faulty and chance.random() < world.plan.duplicates:
            world.counts["duplicated"] += 1
            world.at(chance.uniform(0.0, 300.0), lambda: world.logging.receive(body))
        world.advance(chance.uniform(0.0, 0.05))
        fate = chance.choice(("request", "answer", "later")) if lost else ""
        if fate == "later":
            # It arrives after the sender has given up, perhaps after a second attempt.
            world.at(chance.uniform(seconds, 60.0), lambda: world.logging.receive(body))
        reply = (
            Reply(0, "timed out") if fate in ("request", "later") else world.logging.receive(body)
        )
        world.advance(seconds if fate else chance.uniform(0.0, 0.05))
        if world.inference.writer is not writer:
            raise Killed  # while it waited
        world.may_kill()
        if fate:
            world.counts[f"{fate} lost"] += 1
            return Reply(0, "timed out")
        return reply


class World:
    """One schedule: `run` lets it happen and raises PromiseBroken where a promise was not kept."""

    def __init__(
        self,
        seed: int,
        directory: Path,
        *,
        state: InferenceState,
        loop: asyncio.AbstractEventLoop,
        template: Path,
    ) -> None:
        self.chance = random.Random(seed)
        random.seed(seed)  # the pauses' jitter
        self.plan = Plan.of(self.chance)
        self.state = state
        self.loop = loop
        self.now = 0.0
        self.faulty = True
        self.counts: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._event = 0
        self.network = Network(self)
        self.inference = InferenceHost(self, directory / "outbox")
        self.logging = LoggingHost(self, directory / "database", template)
        # By the image's id, which each prediction has for itself: what was answered, and what the
        # logging service has to refuse; and the images of each prediction id, one as a rule.
        self.answered: set[str] = set()
        self.poison: set[str] = set()
        self.images: dict[str, set[str]] = {}

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen in so many seconds."""
        self._event += 1
        heapq.heappush(self._events, (self.now + seconds, self._event, action))

    def advance(self, seconds: float) -> None:
        """Let time pass, and happen what falls into it."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = max(self.now, end)

    def may_kill(self) -> None:
        """Kill whoever asks, at times."""
        if self.faulty and self.chance.random() < self.plan.kills:
            raise Killed

    def run(self) -> None:
        """Let faults happen for a while, then none, and compare what was promised."""
        with (
            mock.patch.object(files_module, "Outbox", _faulty(self)),
            mock.patch.object(OutboxFiles, "_salvage", OutboxFiles._salvage_now),
        ):
            try:
                self._leave_another_workers_file()
                self.logging.start()
                self.inference.start()
                self._schedule()
                self.advance(FAULTS_SECONDS)
                self._heal()
                self._drain()
                self._compare()
            finally:
                self.inference.close()
                self.logging.close()

    def _schedule(self) -> None:
        chance = self.chance
        for number in range(self.plan.predictions):
            self.at(chance.uniform(0.0, FAULTS_SECONDS), partial(self._predict, number))
        for _ in range(chance.randrange(4)):
            self._for_a_while(self._set_disk, ("full", "failing"))
            self._for_a_while(
                self._set_manner, ("unauthorized", "unavailable", "envelope", "proxy", "captive")
            )
        if chance.random() < self.plan.clocks:
            # 1970, which a prediction may bear, and the year 2342, which is refused.
            self._for_a_while(self._set_clock, (-TODAY, 1e10))
        for host in (self.inference, self.logging):
            if self.plan.kills:
                self.at(chance.uniform(0.0, FAULTS_SECONDS), host.killed)
        if chance.random() < 0.3:
            self.at(chance.uniform(0.0, FAULTS_SECONDS), self._resend)

    def _for_a_while(self, change: Callable[[Any], None], values: Sequence[Any]) -> None:
        start = self.chance.uniform(0.0, FAULTS_SECONDS)
        value = self.chance.choice(values)
        self.at(start, partial(change, value))
        self.at(start + self.chance.uniform(0.0, 40.0), partial(change, type(value)()))

    def _set_disk(self, fault: DiskFault) -> None:
        self.inference.disk_fault = fault if self.faulty else ""

    def _set_manner(self, manner: Manner) -> None:
        self.logging.manner = manner if self.faulty else ""

    def _set_clock(self, offset: float) -> None:
        self.inference.clock_offset = offset if self.faulty else 0.0

    def _predict(self, number: int) -> None:
        chance = self.chance
        image = f"image-{number}"
        name = f"prediction-{number}"
        if number and chance.random() < 0.03:
            # An id that another prediction has: one of the two is refused.
            name = f"prediction-{chance.randrange(number)}"
        self.images.setdefault(name, set()).add(image)
        record = _record(name, image, self.inference.wall_clock())
        if chance.random() < 0.03:
            record["confidence_scores"] = [7]
        if self.inference.clock_offset > 0 or record["confidence_scores"] == [7]:
            self.poison.add(image)
        self.inference.predict(record)

    def _resend(self) -> None:
        """Put what was refused back, as the operator's command does."""
        path = outbox_path(self.inference.directory, 1)
        if self.inference.writer is not None and path.exists():
            with (
                suppress(sqlite3.Error),
                closing(Outbox(path, create=False, log_bytes=0)) as outbox,
            ):
                outbox.resend([letter.id for letter in outbox.dead_letters()])

    def _leave_another_workers_file(self) -> None:
        if self.chance.random() < 0.3:
            left = [f"left-{number}" for number in range(self.chance.choice((1, 5, 5, 210)))]
            with closing(Outbox(outbox_path(self.inference.directory, 2))) as outbox:
                outbox.add([orjson.dumps(_record(one, one, TODAY)) for one in left])
            self.answered.update(left)

    def _heal(self) -> None:
        self.faulty = False
        self.inference.disk_fault = ""
        self.inference.clock_offset = 0.0
        self.logging.manner = ""

    def _drain(self) -> None:
        end = self.now + HEALING_SECONDS
        while self.now < end:
            # Something accepted after a refusal proves that the request as such is in order.
            self._predict(1_000 + self._event)
            self.advance(60.0)
            if self.inference.writer is not None and not self._waiting():
                return
        raise PromiseBroken(f"{self._waiting()} predictions are still not delivered")

    def _waiting(self) -> int:
        waiting = len(files_to_adopt(self.inference.directory, worker=1, workers=1))
        for path in outboxes_in(self.inference.directory).values():
            with closing(Outbox(path, log_bytes=0)) as outbox:
                waiting += outbox.count().waiting
        return waiting

    def _compare(self) -> None:
        stored = self.logging.stored()
        with closing(Outbox(outbox_path(self.inference.directory, 1), log_bytes=0)) as outbox:
            dead = {_image(one.prediction) for one in outbox.dead_letters(rows=100_000)}
        found = {image for _, image in stored}
        self.counts["stored"] = len(stored)
        self.counts["dead letters"] = len(dead)
        if lost := self.answered - found - dead:
            raise PromiseBroken(f"answered and lost: {sorted(lost)[:5]}")
        if len(stored) != len({name for name, _ in stored}):
            raise PromiseBroken("a prediction is stored twice")
        conflicting = {one for images in self.images.values() if len(images) > 1 for one in images}
        if wrong := dead - self.poison - conflicting:
            raise PromiseBroken(f"refused without a reason: {sorted(wrong)[:5]}")
        if wrong := found & self.poison:
            raise PromiseBroken(f"stored although it is wrong: {sorted(wrong)[:5]}")


def _record(name: str, image: str, timestamp: float) -> dict[str, object]:
    return {
        "prediction_id": name,
        "image_id": image,
        "timestamp": timestamp,
        "model_name": "m",
        "model_version": "1",
        "inference_time_ms": 1.0,
        "detections": [],
        "defect_detected": False,
        "confidence_scores": [0.5],
    }


def _image(prediction: bytes) -> str:
    return str(orjson.loads(prediction)["image_id"])
