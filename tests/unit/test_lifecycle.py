"""A worker's heartbeat, and what it tells of the event loop."""

import asyncio
import time
from pathlib import Path

from bentos.health.checks import Verdict
from bentos.health.state import ServiceState
from bentos.process.lifecycle import HEARTBEAT_SECONDS, Lifecycle


def test_a_blocked_event_loop_is_told_by_the_beat_that_it_kept_waiting(tmp_path: Path) -> None:
    late: list[float] = []
    state = ServiceState(tmp_path)

    async def scenario() -> None:
        lifecycle = Lifecycle(
            state, Verdict, drain_seconds=0, shutdown_seconds=1, on_beat=late.append
        )
        lifecycle.start()
        await asyncio.sleep(0)
        assert len(late) == 1
        time.sleep(HEARTBEAT_SECONDS + 0.3)  # noqa: ASYNC251 - the block that is to be told
        await asyncio.sleep(0.01)
        await lifecycle.stop()

    asyncio.run(scenario())
    assert late[0] < 0.3 <= late[1]
    assert state.row.get("heartbeat") > 0
