"""Workers whose predictions flow, to be recorded: `python -m tests.crash.outbox_workload`.

Arguments: the directory of the outboxes, one for other files, and `no-fsync` or `no-names` for a
variant that is broken on purpose. The file `markers` of the other directory says what has been
promised until then: `answered ID` of each prediction that was answered, `stored ID` of what the
logging service has.
"""

import asyncio
import os
import random
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import orjson

from bentos.inference.delivery.outbox import Outbox
from tests.support.log_server import LogServer, Reply, refusal
from tests.support.outboxes import Worker

CLIENTS = 4
PREDICTIONS = 50
REFUSED = "refused"


class Markers:
    """Lines in a file, each written by one call."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT)

    def say(self, *lines: str) -> None:
        """Write lines."""
        os.write(self._file, "".join(f"{line}\n" for line in lines).encode())


class NoFsync(Outbox):
    """An outbox that leaves it to the system when its content reaches the disk."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connection.execute("PRAGMA synchronous = OFF")


def syncing(variant: str) -> AbstractContextManager[object]:
    """Bring no name to the disk where the variant says so; what is in files SQLite syncs itself."""
    return mock.patch("os.fsync") if variant == "no-names" else nullcontext()


def main(outboxes: Path, others: Path, variant: str = "") -> None:
    """Run three workers one after the other; the last one takes over what the others left."""
    markers = Markers(others / "markers")

    def behaviour(batch: dict[str, Any]) -> Reply:
        ids = [one["prediction_id"] for one in batch["predictions"]]
        for index, one in enumerate(ids):
            if one.endswith(REFUSED):
                return refusal(index)
        markers.say(*(f"stored {one}" for one in ids))
        return Reply()

    kind = NoFsync if variant == "no-fsync" else Outbox
    with LogServer() as server, _outbox(kind), syncing(variant):
        server.behaviour = behaviour
        for worker, seconds in ((1, 1.0), (2, 0.0), (1, 1.0)):
            pod = Worker(outboxes, server.url, states=others, worker=worker)
            # A small outbox has a small log, which comes into the file again and again.
            pod.start(max_bytes=1 << 20)
            pod.run(_clients(pod, markers, seed=worker))
            pod.stop(seconds)
            pod.close()


def _outbox(kind: type[Outbox]) -> AbstractContextManager[object]:
    return mock.patch("bentos.inference.delivery.files.Outbox", kind)


async def _clients(pod: Worker, markers: Markers, *, seed: int) -> None:
    chance = random.Random(seed)
    numbers = iter(range(PREDICTIONS))
    name = f"{pod.worker}-{os.urandom(4).hex()}"

    async def client() -> None:
        for number in numbers:
            ending = REFUSED if number % 17 == 5 else ""
            prediction_id = f"{name}-{number}-{ending}"
            notes = "x" * chance.choice((10, 300, 6_000))
            record = {"prediction_id": prediction_id, "notes": notes}
            assert pod.delivery is not None
            await pod.delivery.put(orjson.dumps(record))
            markers.say(f"answered {prediction_id}")
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.03)))

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
