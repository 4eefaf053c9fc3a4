"""A process that the driver keeps running as the kubelet keeps a container running."""

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence

from bentos.process.backoff import Backoff
from local.process import Process

# As the kubelet: at once after the first exit, then after 10 s, 20 s and so on. A container that
# ran for ten minutes counts as sound again.
_FIRST_PAUSE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 300.0
_SOUND_SECONDS = 600.0


class Container:
    """One command, started again whenever its process has ended.

    Nothing outlives a container's first process: what it started is killed when it ends.
    `first_pause` is the pause in seconds before the second restart.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        grace_seconds: float,
        environment: Mapping[str, str] | None = None,
        first_pause: float = _FIRST_PAUSE_SECONDS,
    ) -> None:
        self._command = command
        self._environment = environment
        self._grace_seconds = grace_seconds
        self._backoff = Backoff(first_pause, _LONGEST_PAUSE_SECONDS)
        self._process: Process | None = None
        self._started_at: float | None = None
        self._exited_before = False

    @property
    def pid(self) -> int | None:
        """The process that runs now; None where none does."""
        process = self._process
        return process.pid if process is not None and process.is_running else None

    async def start(self) -> None:
        """Start the process, after the kubelet's pause where it has ended before.

        Raises OSError where the command cannot be run.
        """
        await asyncio.sleep(self._pause())
        self._started_at = time.monotonic()
        self._process = Process(self._command, environment=self._environment)

    async def wait(self) -> int:
        """Wait for the process to end; return its exit status, negative for a signal."""
        process = self._process
        assert process is not None, "the container was not started"
        status = await asyncio.to_thread(process.process.wait)
        await asyncio.to_thread(process.kill)
        return status

    async def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL once the grace period has passed."""
        process = self._process
        if process is not None and process.is_running:
            await asyncio.to_thread(process.stop, seconds=self._grace_seconds)

    def _pause(self) -> float:
        if self._started_at is None:
            return 0.0
        if time.monotonic() - self._started_at >= _SOUND_SECONDS:
            self._backoff.reset()
            self._exited_before = False
        pause = self._backoff.next() if self._exited_before else 0.0
        self._exited_before = True
        return pause


def describe_exit(status: int) -> str:
    """Return an exit status in words, as `kubectl describe pod` would give it.

    `status` is negative where a signal ended the process.
    """
    if status >= 0:
        return f"exit status {status}"
    return f"exit status {128 - status} ({signal.Signals(-status).name})"
