"""Lets those who wait go on a few at a time, so that a probe's turn comes in between."""

import asyncio
from collections import deque


class Pace:
    """At most `at_once` go on in one turn of the event loop, first come, first served."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def step(self) -> None:
        """Wait for one's turn."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._go_on)
        await turn

    def _go_on(self) -> None:
        let_go = 0
        while self._waiting and let_go < self._at_once:
            turn = self._waiting.popleft()
            if not turn.done():  # it gave up while it waited
                turn.set_result(None)
                let_go += 1
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._go_on)
