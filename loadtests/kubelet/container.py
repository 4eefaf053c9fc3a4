"""A process that the driver keeps running as the kubelet keeps a container running."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence

from bentos.process.backoff import Backoff

# As the kubelet: at once after the first exit, then after 10 s, 20 s and so on. A container that
# ran for ten minutes counts as sound again.
_FIRST_PAUSE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 300.0
_SOUND_SECONDS = 600.0


class Container:
    """One command, started again whenever its process has ended.

    The process leads a process group of its own, which is killed when it ends: nothing outlives a
    container's first process. `first_pause` is the pause in seconds before the second restart.
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
        self._process: asyncio.subprocess.Process | None = None
        self._started_at: float | None = None
        self._exited_before = False

    @property
    def pid(self) -> int | None:
        """The process that runs now; None where none does."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the process, after the kubelet's pause where it has ended before.

        Raises OSError where the command cannot be run.
        """
        await asyncio.sleep(self._pause())
        self._started_at = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env=self._environment, start_new_session=True
        )

    async def wait(self) -> int:
        """Wait for the process to end; return its exit status, negative for a signal."""
        process = self._process
        assert process is not None, "the container was not started"
        status = await process.wait()
        self._kill_group(process.pid)
        return status

    async def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL once the grace period has passed."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._grace_seconds):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            self._kill_group(process.pid)
            await process.wait()

    def _pause(self) -> float:
        if self._started_at is None:
            return 0.0
        if time.monotonic() - self._started_at >= _SOUND_SECONDS:
            self._backoff.reset()
            self._exited_before = False
        pause = self._backoff.next() if self._exited_before else 0.0
        self._exited_before = True
        return pause

    def _kill_group(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def describe_exit(status: int) -> str:
    """Return an exit status in words, as `kubectl describe pod` would give it.

    `status` is negative where a signal ended the process.
    """
    if status >= 0:
        return f"exit status {status}"
    return f"exit status {128 - status} ({signal.Signals(-status).name})"
