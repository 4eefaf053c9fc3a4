"""The memory that all processes of one pod share: a row of numbers and a short text for each.

A row belongs to a place (worker 1, worker 2, ..., and last the probe process), not to a process.
A worker that replaces a dead one goes on with the dead one's counters, so no count is lost, and
starts its gauges at 0, so none is stale. Every cell is one aligned float64 that only one process
writes, so processes need no lock. Every process that maps the file reads the same values.
"""

import json
import mmap
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import psutil

from bentos.health.window import ErrorWindow, window_cells

Clock = Callable[[], float]

_CELL_BYTES = 8
# Each row has two places of this size for its text.
TEXT_BYTES = 65_536
_ALIVE_CACHE_SECONDS = 0.25
# Cells that every row has: whose it is, since when, its last sign of life, how often its text was
# written, and the lengths of its last two texts.
_OWN_CELLS = (
    *("pid", "process_created", "claimed_at", "heartbeat", "shutting_down"),
    *("text_version", "text_bytes_0", "text_bytes_1"),
)


@dataclass(frozen=True)
class Layout:
    """How many numbers a row holds under each name, in their order, and which restart at 0.

    Raises ValueError where a name is one that every row has, as `pid`.
    """

    sizes: Mapping[str, int]
    gauges: frozenset[str]
    window_seconds: int

    def __post_init__(self) -> None:
        taken = self.sizes.keys() & set(_OWN_CELLS)
        if taken:
            raise ValueError(f"every row has cells of these names already: {sorted(taken)}")

    def row_cells(self) -> int:
        """Return the cells of one row: its own, the named ones and the window of outcomes."""
        return len(_OWN_CELLS) + sum(self.sizes.values()) + window_cells(self.window_seconds)


class Row:
    """The numbers and the text of one process, readable by all, written by its own."""

    def __init__(
        self,
        cells: "memoryview[float]",
        text: "memoryview[int]",
        layout: Layout,
        *,
        clock: Clock,
    ) -> None:
        self._cells = cells
        self._text = text
        self._gauges = layout.gauges
        self._clock = clock
        self._lock = Lock()
        self._alive = False
        self._alive_checked_at = float("-inf")
        self._slices: dict[str, slice] = {}
        start = 0
        for name, size in [*((name, 1) for name in _OWN_CELLS), *layout.sizes.items()]:
            self._slices[name] = slice(start, start + size)
            start += size
        self.window = ErrorWindow(cells[start:], seconds=layout.window_seconds, clock=clock)

    def get(self, name: str) -> float:
        """Return the first cell under a name."""
        return float(self._cells[self._slices[name].start])

    def set(self, name: str, value: float) -> None:
        """Write the first cell under a name."""
        self._cells[self._slices[name].start] = value

    def values(self, name: str) -> "memoryview[float]":
        """Return all cells under a name, as they stand now and later."""
        return self._cells[self._slices[name]]

    def index(self, name: str) -> int:
        """Return where the cells of a name begin, for `add_at`."""
        return int(self._slices[name].start)

    def add_at(self, *changes: tuple[int, float]) -> None:
        """Add to cells by their index, all at once, from any thread of the row's process."""
        with self._lock:
            for index, amount in changes:
                self._cells[index] += amount

    def record(self, *, successes: int = 0, errors: int = 0) -> None:
        """Add outcomes to the window, from any thread of the row's process."""
        with self._lock:
            self.window.record(successes=successes, errors=errors)

    def write_text(self, content: Mapping[str, object]) -> None:
        """Write the row's text, a JSON object; ValueError where it is longer than TEXT_BYTES.

        There are two places, used in turns; the version shows which one is valid. So a process
        that dies while it writes leaves the last text as it was.
        """
        encoded = encode_text(content)
        if len(encoded) > TEXT_BYTES:
            raise ValueError(f"a text of {len(encoded)} bytes; it may have {TEXT_BYTES}")
        with self._lock:
            version = int(self.get("text_version")) + 1
            start = version % 2 * TEXT_BYTES
            self._text[start : start + len(encoded)] = encoded
            self.set(f"text_bytes_{version % 2}", len(encoded))
            self.set("text_version", version)

    def read_text(self) -> dict[str, object]:
        """Return the row's text, empty where there is none."""
        while True:
            version = int(self.get("text_version"))
            start = version % 2 * TEXT_BYTES
            size = int(self.get(f"text_bytes_{version % 2}"))
            content = bytes(self._text[start : start + size])
            # Only the version after next is written to the same place.
            if version == int(self.get("text_version")):
                return json.loads(content.decode(*_ENCODING)) if content else {}

    def claim(self) -> None:
        """Make the row this process's own: gauges at 0, counters and the text as they stand."""
        process = psutil.Process()
        for name in self._gauges:
            cells = self.values(name)
            for index in range(len(cells)):
                cells[index] = 0.0
        self.set("shutting_down", 0.0)
        self.set("heartbeat", self._clock())
        self.set("claimed_at", self._clock())
        self.set("process_created", _created(process))
        self.set("pid", process.pid)
        self._alive_checked_at = float("-inf")

    @property
    def claimed(self) -> bool:
        """Whether a process has ever owned the row."""
        return self.get("pid") != 0.0

    @property
    def alive(self) -> bool:
        """Whether the row's process runs; asked of the kernel at most four times a second."""
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
        except OSError:
            return self._alive  # no file descriptor is left to look with: nothing new is known


class PodMemory:
    """All rows of a pod in one memory-mapped file: `workers` of them and the probe process's."""

    def __init__(
        self, path: Path, layout: Layout, *, workers: int, clock: Clock = time.monotonic
    ) -> None:
        self._clock = clock
        rows = workers + 1
        row_cells = layout.row_cells()
        numbers = (rows * row_cells + 2) * _CELL_BYTES
        row_text = 2 * TEXT_BYTES
        self._map = _map_file(path, numbers + rows * row_text)
        view = memoryview(self._map)
        cells = view[:numbers].cast("d")
        # The last two cells are the pod's own: when its first process came, by both clocks.
        self._started_at = cells[rows * row_cells :]
        if self._started_at[0] == 0.0:
            self._started_at[1] = clock()
            self._started_at[0] = time.time()
        self.rows = tuple(
            Row(
                cells[index * row_cells : (index + 1) * row_cells],
                view[numbers + index * row_text : numbers + (index + 1) * row_text],
                layout,
                clock=clock,
            )
            for index in range(rows)
        )
        self.workers = self.rows[:-1]
        self.probe_process = self.rows[-1]

    @property
    def started_at(self) -> float:
        """Unix seconds at which the pod's first process came up."""
        return float(self._started_at[0])

    @property
    def uptime(self) -> float:
        """Seconds since then, whatever was done to the machine's clock meanwhile."""
        return self._clock() - float(self._started_at[1])

    def claim(self, worker: int) -> Row:
        """Return the row of a worker, 1 the first, or of the probe process, 0, as one's own.

        Raises ValueError where the pod has no such worker.
        """
        if not 0 <= worker <= len(self.workers):
            raise ValueError(f"worker {worker} of a pod with {len(self.workers)}")
        row = self.rows[worker - 1]
        row.claim()
        return row

    def live_workers(self) -> list[Row]:
        """Return the rows of workers whose process runs."""
        return [row for row in self.workers if row.alive]

    def dead_for(self) -> float:
        """Return how many seconds ago a worker died that was not replaced, 0.0 where none is."""
        now = self._clock()
        dead = (row for row in self.workers if row.claimed and not row.alive)
        return max((now - row.get("heartbeat") for row in dead), default=0.0)

    def longest_since(self, name: str, rows: Iterable[Row] | None = None) -> float:
        """Return the seconds since the oldest moment under a name in live workers, 0.0 for none.

        A cell that is 0 holds no moment.
        """
        now = self._clock()
        moments = (row.get(name) for row in (self.live_workers() if rows is None else rows))
        return max((now - moment for moment in moments if moment), default=0.0)

    def age_of(self, name: str) -> float:
        """Return the seconds since the oldest moment under a name in live workers.

        Since its start for a worker that has noted none yet.
        """
        now = self._clock()
        moments = (row.get(name) or row.get("claimed_at") for row in self.live_workers())
        return max((now - moment for moment in moments), default=0.0)


# A file's name in an error message may hold bytes that are no UTF-8.
_ENCODING = ("utf-8", "surrogatepass")


def encode_text(content: object) -> bytes:
    """Return content as it stands in a row's text."""
    return json.dumps(content, default=str, ensure_ascii=False).encode(*_ENCODING)


def _created(process: psutil.Process) -> float:
    """Return when a process began, in seconds since boot, which no step of the clock changes."""
    return float(process.create_time() - psutil.boot_time())


def _map_file(path: Path, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Growing to the same size from several processes at once is harmless: new bytes are zero.
        # With the disk's blocks: the first write to one that is missing on a full disk kills.
        if os.fstat(descriptor).st_size < size:
            os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
