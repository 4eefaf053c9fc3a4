"""What is done to the services while clients predict, and how often."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.world import World, filled
from tests.support.proxy import Mode

Action = Callable[[World, random.Random], None]


@dataclass(frozen=True)
class Fault:
    """A fault that is made `times` in a full run; `short` in the one of `make test`.

    `restarts` says whether the services' counters begin anew with it.
    """

    name: str
    action: Action
    times: int
    short: int
    restarts: bool = False


def _worker(world: World, chance: random.Random) -> None:
    world.kill_worker()
    time.sleep(chance.uniform(0.5, 1.0))
    world.inference.wait_until_ready()


def _model_process(world: World, chance: random.Random) -> None:
    world.kill_model_process()
    time.sleep(chance.uniform(0.5, 1.0))
    world.inference.wait_until_ready()


def _inference(world: World, _: random.Random) -> None:
    world.inference.kill()
    world.start_inference()
    world.inference.wait_until_ready()


def _logging(world: World, _: random.Random) -> None:
    world.logging.kill()
    world.start_logging()
    world.logging.wait_until_ready()


def _network(mode: Mode) -> Action:
    def fault(world: World, chance: random.Random) -> None:
        world.proxy.become(mode)
        time.sleep(chance.uniform(0.5, 2.0))
        world.proxy.become("pass")

    return fault


def logging_away(seconds: float) -> Action:
    """Make a fault in which the logging service is gone for so long."""

    def fault(world: World, _: random.Random) -> None:
        world.logging.kill()
        time.sleep(seconds)
        world.start_logging()
        world.logging.wait_until_ready()

    return fault


def _full_outboxes(world: World, chance: random.Random) -> None:
    with filled(world.outboxes):
        time.sleep(chance.uniform(1.0, 2.0))
    world.inference.wait_until_ready()


def _full_database(world: World, chance: random.Random) -> None:
    with filled(world.database.parent):
        time.sleep(chance.uniform(1.0, 2.0))
    world.logging.wait_until_ready()


def faults(*, away_seconds: float) -> list[Fault]:
    """Return all faults, in the order in which they are made."""
    return [
        Fault("`kill -9` of the worker", _worker, 20, 2),
        Fault("`kill -9` of the model process", _model_process, 20, 1),
        Fault("`kill -9` of the whole inference service", _inference, 20, 1, restarts=True),
        Fault("`kill -9` of the logging service", _logging, 20, 1, restarts=True),
        Fault("connections between them cut", _network("cut"), 20, 1),
        Fault("the network between them slow", _network("slow"), 5, 0),
        Fault("answers broken in the middle", _network("break"), 20, 1),
        Fault("requests arrive, answers do not", _network("swallow"), 20, 1),
        Fault(
            f"the logging service away for {away_seconds:.0f} s",
            logging_away(away_seconds),
            1,
            0,
            restarts=True,
        ),
        Fault("the outbox's disk full", _full_outboxes, 5, 1),
        Fault("the database's disk full", _full_database, 5, 1),
    ]
