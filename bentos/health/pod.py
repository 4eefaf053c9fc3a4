"""The memory that the workers of one pod share: a row of numbers for each worker.

A row belongs to a worker's index, not to its process: a worker that replaces a dead one goes on
with the dead one's counters, so no count is lost, and overwrites its gauges, so none is stale.
Every cell is one aligned float64, written by one process only, so no lock crosses processes.
"""

import mmap
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

import psutil

from bentos.health.window import WINDOW_SECONDS, ErrorWindow, Outcomes, sum_outcomes, window_cells

_CELL_BYTES = 8
_ALIVE_CACHE_SECONDS = 0.5

# Cells that every row has, whatever the service.
_OWN_CELLS = ("pid", "process_created", "claimed_at", "heartbeat", "shutting_down")


class WorkerRow:
    """The numbers of one worker, readable by all, written by its own process."""

    def __init__(
        self,
        cells: "memoryview[float]",
        columns: dict[str, int],
        window: ErrorWindow,
        clock: Callable[[], float],
    ) -> None:
        self._cells = cells
        self._columns = columns
        self._clock = clock
        self._lock = Lock()
        self._alive = False
        self._alive_checked_at = float("-inf")
        self.window = window

    def get(self, name: str) -> float:
        """Return the value of a cell."""
        return float(self._cells[self._columns[name]])

    def set(self, name: str, value: float) -> None:
        """Write a gauge."""
        self._cells[self._columns[name]] = float(value)

    def add(self, name: str, amount: float = 1) -> None:
        """Add to a counter, safely from any thread of the owning process."""
        column = self._columns[name]
        with self._lock:
            self._cells[column] += amount

    def record(self, *, successes: int = 0, errors: int = 0) -> None:
        """Add outcomes to the window, safely from any thread of the owning process."""
        with self._lock:
            self.window.record(successes=successes, errors=errors)

    def claim(self, gauges: Sequence[str]) -> None:
        """Make the row this process's own: gauges at 0, counters as they stand."""
        process = psutil.Process()
        for name in gauges:
            self.set(name, 0.0)
        self.set("shutting_down", 0.0)
        self.set("heartbeat", self._clock())
        self.set("claimed_at", self._clock())
        self.set("process_created", _created(process))
        self.set("pid", process.pid)
        self._alive_checked_at = float("-inf")

    @property
    def claimed(self) -> bool:
        """Whether a worker has ever owned the row."""
        return self.get("pid") != 0.0

    @property
    def alive(self) -> bool:
        """Whether the row's process runs; asked of the kernel at most twice a second."""
        now = self._clock()
        if now - self._alive_checked_at >= _ALIVE_CACHE_SECONDS:
            self._alive = self.claimed and self._process_runs()
            self._alive_checked_at = now
        return self._alive

    def _process_runs(self) -> bool:
        try:
            process = psutil.Process(int(self.get("pid")))
            # A dead worker stays a zombie until its supervisor looks, and a pid may be reused.
            same = abs(_created(process) - self.get("process_created")) < 1.0
            return same and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


class PodMemory:
    """All rows of a pod in one memory-mapped file.

    `counters` only grow and outlive their worker; `gauges` are told by live workers only.
    """

    def __init__(
        self,
        path: Path,
        *,
        workers: int,
        counters: Sequence[str],
        gauges: Sequence[str],
        window_seconds: int = WINDOW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        names = (*_OWN_CELLS, *counters, *gauges)
        if len(set(names)) != len(names):
            raise ValueError(f"a cell is named twice in {names}")
        columns = {name: index for index, name in enumerate(names)}
        row_cells = len(names) + window_cells(window_seconds)
        self._gauges = tuple(gauges)
        self._clock = clock
        self._map = _map_file(path, (workers * row_cells + 1) * _CELL_BYTES)
        cells = memoryview(self._map).cast("d")
        # The last cell is the pod's, not a worker's: when its first worker came.
        self._started_at = cells[workers * row_cells :]
        if self._started_at[0] == 0.0:
            self._started_at[0] = time.time()
        self.rows = tuple(
            WorkerRow(
                cells=cells[at : at + len(names)],
                columns=columns,
                window=ErrorWindow(
                    cells[at + len(names) : at + row_cells], seconds=window_seconds, clock=clock
                ),
                clock=clock,
            )
            for at in range(0, workers * row_cells, row_cells)
        )

    @property
    def started_at(self) -> float:
        """Unix seconds at which the pod's first worker came up."""
        return float(self._started_at[0])

    def claim(self, worker: int) -> WorkerRow:
        """Return the row of a worker, 1 the first, as the calling process's own.

        Raises ValueError where the pod has no such worker.
        """
        if not 1 <= worker <= len(self.rows):
            raise ValueError(f"worker {worker} of a pod with {len(self.rows)}")
        row = self.rows[worker - 1]
        row.claim(self._gauges)
        return row

    def total(self, counter: str) -> float:
        """Return a counter over all workers that ever lived."""
        return sum(row.get(counter) for row in self.rows)

    def maximum(self, name: str) -> float:
        """Return the greatest value of a cell over all rows."""
        return max(row.get(name) for row in self.rows)

    def live_rows(self) -> list[WorkerRow]:
        """Return the rows whose process runs."""
        return [row for row in self.rows if row.alive]

    def live_total(self, gauge: str) -> float:
        """Return the sum of a gauge over live workers."""
        return sum(row.get(gauge) for row in self.live_rows())

    def everywhere(self, flag: str) -> bool:
        """Tell whether a 0/1 gauge is 1 in every worker that the pod should have."""
        return all(row.alive and row.get(flag) == 1.0 for row in self.rows)

    def outcomes(self) -> Outcomes:
        """Return successes and errors of the whole pod within the window."""
        return sum_outcomes(row.window for row in self.rows)

    def dead_for(self) -> float:
        """Return for how many seconds a claimed worker has been dead, 0.0 where none is."""
        now = self._clock()
        return max(
            (now - row.get("heartbeat") for row in self.rows if row.claimed and not row.alive),
            default=0.0,
        )


def _created(process: psutil.Process) -> float:
    """Return when a process began, in seconds since boot, which no step of the clock changes."""
    return float(process.create_time() - psutil.boot_time())


def _map_file(path: Path, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Growing to the same size from several workers at once is harmless: new bytes are zero.
        # With the disk's blocks: the first write to one that is missing on a full disk kills.
        if os.fstat(descriptor).st_size < size:
            os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
