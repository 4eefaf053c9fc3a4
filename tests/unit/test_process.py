"""The life of a worker's model process, with real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from bentos.inference import channel as module
from bentos.inference.channel import Installed, LoadChanged, ModelProcess, ToWorker, Writer
from bentos.inference.engine import Engine
from bentos.inference.settings import InferenceSettings, ModelProcessSettings
from bentos.inference.state import InferenceState
from tests.support.model_server import Model, make_state
from tests.support.servers import wait_until

# Each test starts model processes, and each of them imports torch.
pytestmark = pytest.mark.slow

WAIT_SECONDS = 60.0


def settings(directory: Path) -> str:
    """Return settings of an empty registry, so that nothing is loaded."""
    given = InferenceSettings(
        mlflow_tracking_uri=f"sqlite:///{directory}/mlflow.db", model_poll_seconds=0.1
    )
    content = ModelProcessSettings(settings=given, service="a-service", worker=1)
    return content.model_dump_json()


class _Engine(Engine):
    """Counts the processes it was connected to, and how they ended."""

    def __init__(self, state: InferenceState) -> None:
        super().__init__(state, queue_size=10, max_batch=1, wait_seconds=WAIT_SECONDS)
        self.starts = 0
        self.ends: list[bool] = []

    def connected(self, writer: Writer) -> None:
        self.starts += 1
        super().connected(writer)

    def disconnected(self, *, taken: int, comes_back: bool) -> None:
        self.ends.append(comes_back)
        super().disconnected(taken=taken, comes_back=comes_back)


class _Process(ModelProcess):
    """Keeps what the process said."""

    said: list[ToWorker]

    def _received(self, message: ToWorker) -> None:
        self.said.append(message)
        super()._received(message)


class Kept:
    """A model process and all that became known of it."""

    def __init__(self, given: str, directory: str, proven_seconds: float) -> None:
        self.state = make_state(Path(directory))
        self.engine = _Engine(self.state)
        self.process = _Process(given, self.engine, self.state, proven_seconds=proven_seconds)
        self.process.said = []

    @property
    def error(self) -> str:
        """What `/ready` says of the last end."""
        return str((self.state.text("load") or {}).get("error"))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.01)

    async def spoke(self) -> int:
        """Wait until the process says something; return its id."""
        self.process.said.clear()
        await self.until(lambda: self.process.said)
        assert self.process.pid is not None
        return self.process.pid


def run(
    given: str, test: Callable[[Kept], Awaitable[None]], *, proven_seconds: float = 60.0
) -> None:
    async def main(directory: str) -> None:
        kept = Kept(given, directory, proven_seconds)
        kept.process.start()
        try:
            await test(kept)
        finally:
            await kept.process.stop()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(directory))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.05)


def test_it_says_how_the_registry_stands(tmp_path: Path) -> None:
    async def test(kept: Kept) -> None:
        await kept.until(lambda: kept.state.mlflow_accessible.get() == 1)
        assert kept.state.registry_version.get() == 0
        assert "there is no model 'steel-defects'" in kept.state.text("registry")

    run(settings(tmp_path), test)


def test_a_killed_one_is_told_by_its_signal_and_started_again(tmp_path: Path) -> None:
    async def test(kept: Kept) -> None:
        first = await kept.spoke()
        os.kill(first, signal.SIGKILL)
        await kept.until(lambda: kept.engine.starts == 2)
        assert kept.error == "the model process was ended by SIGKILL"
        assert kept.state.model_exits.value == 1
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
        assert kept.error == "the model process ended with status 1"
        assert pauses == [0.05, 0.1, 0.2, 0.2]

    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.2)
    run('{"no": "settings"}', test)


def test_one_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))

    async def test(kept: Kept) -> None:
        await kept.until(lambda: len(kept.engine.ends) == 2)
        assert kept.error.startswith("the model process cannot be started: ")
        monkeypatch.setattr(sys, "executable", python)
        await kept.spoke()

    run(settings(tmp_path), test)


def test_a_message_that_cannot_be_acted_on_costs_that_process_only(tmp_path: Path) -> None:
    async def test(kept: Kept) -> None:
        def refuse(_: object) -> None:
            raise ValueError("the state is full")

        kept.state.registry_checked = refuse  # type: ignore[assignment,method-assign]
        await kept.until(lambda: kept.engine.starts == 2)
        del kept.state.registry_checked
        await kept.until(lambda: kept.state.mlflow_accessible.get() == 1)

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
        assert not kept.engine.ends

    run(settings(tmp_path), test)


_WORKER = """
import asyncio, sys, tempfile
from pathlib import Path
from bentos.inference.channel import ModelProcess
from bentos.inference.engine import Engine
from tests.support.model_server import make_state

class Speaking(ModelProcess):
    def _received(self, message):
        print(self.pid, flush=True)

async def main():
    state = make_state(Path(tempfile.mkdtemp()))
    engine = Engine(state, queue_size=1, max_batch=1, wait_seconds=1)
    process = Speaking(sys.argv[1], engine, state)
    process.start()
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("meanwhile", [signal.SIGCONT, signal.SIGSTOP])
def test_it_dies_with_its_worker_even_while_it_hangs(
    tmp_path: Path, meanwhile: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, settings(tmp_path)], stdout=subprocess.PIPE
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
    content = ModelProcessSettings(settings=given, service="a-service", worker=1)

    async def test(kept: Kept) -> None:
        await kept.until(lambda: kept.state.text("registry"))
        assert kept.state.mlflow_accessible.get() == 0
        assert "127.0.0.1" in kept.state.text("registry")
        assert not any(isinstance(message, LoadChanged) for message in kept.process.said)

    run(content.model_dump_json(), test)


@pytest.mark.case(50)
def test_one_that_had_a_model_is_replaced_at_once_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model process is killed: the next one starts at once, and requests wait for its model."""
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 600.0)

    async def test(kept: Kept) -> None:
        first = await kept.spoke()
        kept.process._received(Installed(1, Model().loaded))
        os.kill(first, signal.SIGKILL)
        await kept.until(lambda: kept.engine.starts == 2)
        assert kept.engine.ends == [True]
        os.kill(await kept.spoke(), signal.SIGKILL)
        await kept.until(lambda: len(kept.engine.ends) == 2)
        assert kept.engine.ends == [True, False]
        load = kept.state.text("load")
        assert load["retry_at"] > 0
        await asyncio.sleep(0.1)
        assert kept.engine.starts == 2

    run(settings(tmp_path), test, proven_seconds=0.0)


@pytest.mark.case(51)
def test_it_shows_every_second_that_it_runs(tmp_path: Path) -> None:
    """Nothing is asked of the model process: it says something all the same, and when is kept."""

    async def test(kept: Kept) -> None:
        await kept.spoke()
        heard_at = kept.state.model_heard_at.get()
        assert heard_at > 0
        await kept.until(lambda: kept.state.model_heard_at.get() > heard_at)

    run(settings(tmp_path), test)
