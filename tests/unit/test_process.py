"""The life of a worker's model process, with real processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from bentos.inference import process as module
from bentos.inference.process import ModelProcess
from bentos.inference.settings import InferenceSettings, ModelProcessSettings
from bentos.inference.wire import LoadChanged, Message, RegistryChecked
from tests.support.servers import wait_until

WAIT_SECONDS = 60.0


def settings(directory: Path) -> bytes:
    """Return settings of an empty registry, so that nothing is loaded."""
    given = InferenceSettings(
        mlflow_tracking_uri=f"sqlite:///{directory}/mlflow.db", model_poll_seconds=0.1
    )
    told = ModelProcessSettings(settings=given, service="a-service", worker=1)
    return told.model_dump_json().encode()


class Kept:
    """A model process and all that became known of it."""

    def __init__(self, given: bytes) -> None:
        self.heard: list[Message] = []
        self.ends: list[str] = []
        self.starts = 0
        self.process = ModelProcess(
            given,
            on_start=self._started,
            on_message=self.heard.append,
            on_end=lambda how, _: self.ends.append(how),
        )

    def _started(self, _: Callable[[bytes], None]) -> None:
        self.starts += 1

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.01)

    async def spoke(self) -> int:
        """Wait until the process says something; return its id."""
        self.heard.clear()
        await self.until(lambda: self.heard)
        assert self.process.pid is not None
        return self.process.pid


def run(given: bytes, test: Callable[[Kept], Awaitable[None]]) -> None:
    async def main() -> None:
        kept = Kept(given)
        kept.process.start()
        try:
            await test(kept)
        finally:
            await kept.process.stop()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.05)


def test_it_tells_of_the_registry(tmp_path: Path) -> None:
    async def test(kept: Kept) -> None:
        await kept.spoke()
        assert kept.heard[0] == RegistryChecked(accessible=True, version=None)

    run(settings(tmp_path), test)


def test_a_killed_one_is_told_by_its_signal_and_started_again(tmp_path: Path) -> None:
    async def test(kept: Kept) -> None:
        first = await kept.spoke()
        os.kill(first, signal.SIGKILL)
        await kept.until(lambda: kept.starts == 2)
        assert kept.ends == ["was ended by SIGKILL"]
        assert await kept.spoke() != first

    run(settings(tmp_path), test)


def test_one_that_ends_at_once_is_started_again_with_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds >= 0.05:
            pauses.append(seconds)
        await sleep(seconds)

    async def test(kept: Kept) -> None:
        monkeypatch.setattr(asyncio, "sleep", noted)
        await kept.until(lambda: len(pauses) == 4)
        assert kept.ends[0] == "ended with status 1"
        assert pauses == [0.05, 0.1, 0.2, 0.2]

    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.2)
    run(b'{"no": "settings"}', test)


def test_one_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))

    async def test(kept: Kept) -> None:
        await kept.until(lambda: len(kept.ends) == 2)
        assert kept.ends[0].startswith("cannot be started: ")
        monkeypatch.setattr(sys, "executable", python)
        await kept.spoke()

    run(settings(tmp_path), test)


def test_a_message_that_cannot_be_acted_on_costs_that_process_only(tmp_path: Path) -> None:
    async def test(kept: Kept) -> None:
        def refuse(message: Message) -> None:
            monkeypatch.setattr(kept.process, "_on_message", kept.heard.append)
            raise ValueError(f"cannot act on {message}")

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(kept.process, "_on_message", refuse)
            await kept.until(lambda: kept.starts == 2)
            await kept.spoke()

    run(settings(tmp_path), test)


def test_a_stop_leaves_no_process_behind(tmp_path: Path) -> None:
    found: list[int] = []

    async def test(kept: Kept) -> None:
        found.append(await kept.spoke())

    run(settings(tmp_path), test)
    assert not psutil.pid_exists(found[0])


def test_neither_a_terminals_interrupt_nor_a_termination_ends_it(tmp_path: Path) -> None:
    async def test(kept: Kept) -> None:
        pid = await kept.spoke()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
        for _ in range(3):
            assert await kept.spoke() == pid
        assert not kept.ends

    run(settings(tmp_path), test)


_WORKER = """
import asyncio, sys
from bentos.inference.process import ModelProcess

async def main():
    process = ModelProcess(
        sys.argv[1].encode(),
        on_start=lambda write: None,
        on_message=lambda message: print(process.pid, flush=True),
        on_end=lambda how, at: None,
    )
    process.start()
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("meanwhile", [signal.SIGCONT, signal.SIGSTOP])
def test_it_dies_with_its_worker_even_while_it_hangs(
    tmp_path: Path, meanwhile: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, settings(tmp_path).decode()], stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        os.kill(pid, meanwhile)
        worker.kill()
    wait_until(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie",
        "the model process's end",
        seconds=WAIT_SECONDS,
    )


def test_what_it_says_is_of_the_settings_it_was_given(tmp_path: Path) -> None:
    given = InferenceSettings(
        mlflow_tracking_uri="http://127.0.0.1:9", mlflow_timeout_seconds=1, model_poll_seconds=0.1
    )
    told = ModelProcessSettings(settings=given, service="a-service", worker=1)

    async def test(kept: Kept) -> None:
        await kept.spoke()
        assert kept.heard[0] == RegistryChecked(accessible=False)
        assert not any(isinstance(message, LoadChanged) for message in kept.heard)

    run(told.model_dump_json().encode(), test)
