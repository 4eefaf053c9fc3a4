"""A model process beside the served one, with real processes: its life, and what it may not do."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import orjson
import psutil
import pytest

from bentos.edge.http import ServiceError
from bentos.inference import channel, side
from bentos.inference.channel import Input, InputKind
from bentos.inference.explain import Explainer
from bentos.inference.settings import InferenceSettings
from bentos.inference.side import SideModel
from tests.support.images import colour_file
from tests.support.inference import channel as brightest
from tests.support.models import (
    COLOUR_CLASSES,
    COLOURS,
    FINE,
    MODEL_FAULT_FILE,
    SWITCHED,
    ModelStore,
)

# Each test starts model processes, and each of them imports torch.
pytestmark = pytest.mark.slow

WAIT_SECONDS = 60.0
_MEMORY = 512 << 20

Fault: TypeAlias = Callable[[str], object]


def numbers(*values: float) -> Input:
    return Input(InputKind.JSON, orjson.dumps({"data": values}))


def settings(store: ModelStore, model: str, **others: object) -> InferenceSettings:
    return InferenceSettings.model_validate(
        {
            "mlflow_tracking_uri": store.tracking_uri,
            "model_name": model,
            "model_poll_seconds": 0.2,
            "side_memory_bytes": _MEMORY,
            **others,
        }
    )


def make(given: InferenceSettings) -> SideModel:
    return SideModel(given, name="challenger", stage=given.model_stage, worker=1, most_rows=101)


def oom_score(process: psutil.Process) -> int:
    return int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.01)


def run(given: InferenceSettings, test: Callable[[SideModel], Awaitable[None]]) -> None:
    async def main() -> None:
        beside = make(given)
        beside.start()
        try:
            await test(beside)
        finally:
            await beside.stop()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "FIRST_PAUSE_SECONDS", 0.05)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fault:
    """Tell the switched model what to do from now on."""
    path = tmp_path / "fault"
    path.write_text("")
    monkeypatch.setenv(MODEL_FAULT_FILE, str(path))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    return path.write_text


def test_it_answers_with_the_lowest_priority_and_bounded_memory_and_leaves_nothing_behind(
    model_store: ModelStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    processes: list[psutil.Process] = []

    async def test(beside: SideModel) -> None:
        await until(lambda: beside.model)
        (answer,) = await beside.predict(numbers(*brightest(1)), seconds=WAIT_SECONDS)
        assert answer.class_name == COLOUR_CLASSES[1]
        process = psutil.Process(beside.pid)
        assert process.nice() == 19
        assert process.rlimit(psutil.RLIMIT_DATA) == (_MEMORY, _MEMORY)
        assert oom_score(process) == 1000
        processes.append(process)

    run(settings(model_store, COLOURS), test)
    assert not processes[0].is_running()
    assert [path for path in tmp_path.iterdir() if path.name.startswith("side-")] == []


def test_one_that_gives_no_answer_in_time_is_ended_and_replaced(
    model_store: ModelStore, fault: Fault
) -> None:
    async def test(beside: SideModel) -> None:
        await until(lambda: beside.model)
        hung = beside.pid
        fault("hang")
        with pytest.raises(ServiceError) as error:
            await beside.predict(numbers(*FINE), seconds=0.5)
        assert (error.value.status, error.value.reason) == (504, "timeout")
        fault("")
        await until(lambda: beside.pid not in (None, hung) and beside.model)
        assert len(await beside.predict(numbers(*FINE), seconds=WAIT_SECONDS)) == 1

    run(settings(model_store, SWITCHED), test)


def test_one_that_is_stopped_is_ended_and_replaced(
    model_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(beside: SideModel) -> None:
        await until(lambda: beside.model)
        stopped = beside.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        with monkeypatch.context() as patched:
            patched.setattr(side, "_SILENT_SECONDS", 2.0)
            await until(lambda: beside.pid != stopped)
        await until(lambda: beside.model)

    run(settings(model_store, COLOURS), test)


def test_a_leak_ends_at_its_bound(model_store: ModelStore, fault: Fault) -> None:
    async def test(beside: SideModel) -> None:
        await until(lambda: beside.model)
        leaking = beside.pid
        fault("leak")
        process = psutil.Process(leaking)
        largest = 0
        refused: set[str] = set()
        async with asyncio.timeout(WAIT_SECONDS):
            while beside.pid == leaking:
                try:
                    await beside.predict(numbers(*FINE), seconds=WAIT_SECONDS)
                except ServiceError as error:
                    refused.add(error.reason)
                try:
                    largest = max(largest, process.memory_info().rss)
                except psutil.NoSuchProcess:
                    break
        assert refused <= {"model_failure", "model_not_loaded"}
        assert largest < 2 * _MEMORY
        fault("")
        await until(lambda: beside.pid not in (None, leaking) and beside.model)

    run(settings(model_store, SWITCHED), test)


def explaining(
    given: InferenceSettings, test: Callable[[Explainer], Awaitable[None]], **options: float
) -> None:
    async def main() -> None:
        explainer = Explainer(lambda: make(given), **{"seconds": WAIT_SECONDS, **options})
        try:
            await test(explainer)
        finally:
            await explainer.stop()

    asyncio.run(main())


def test_the_explainer_is_there_only_while_it_is_used(model_store: ModelStore) -> None:
    async def test(explainer: Explainer) -> None:
        assert explainer.pid is None
        picture = colour_file((0, 200, 0))
        found = await explainer.explain(picture)
        assert found.class_name == COLOUR_CLASSES[1]
        assert len(found.drops) == len(found.drops[0]) == 10
        first = explainer.pid
        assert first is not None
        await explainer.explain(picture)
        assert explainer.pid == first
        await until(lambda: explainer.pid is None and not psutil.pid_exists(first))
        await explainer.explain(picture)

    explaining(settings(model_store, COLOURS), test, idle_seconds=1.0)


def test_the_explainer_takes_one_picture_at_a_time(model_store: ModelStore) -> None:
    async def test(explainer: Explainer) -> None:
        first = asyncio.ensure_future(explainer.explain(colour_file((0, 200, 0))))
        await until(lambda: explainer.pid)
        with pytest.raises(ServiceError) as error:
            await explainer.explain(colour_file((0, 200, 0)))
        assert (error.value.status, error.value.reason) == (429, "explain_busy")
        assert (await first).class_name == COLOUR_CLASSES[1]

    explaining(settings(model_store, COLOURS), test)


def test_the_explainer_tells_why_there_is_no_model(model_store: ModelStore) -> None:
    async def test(explainer: Explainer) -> None:
        while True:
            with pytest.raises(ServiceError) as error:
                await explainer.explain(colour_file((0, 200, 0)))
            assert (error.value.status, error.value.reason) == (503, "explain_starting")
            if "class_names" in error.value.message:
                return

    explaining(settings(model_store, COLOURS, model_stage="3"), test, seconds=0.5)
