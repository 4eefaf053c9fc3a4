"""Lines to a stream from a thread of its own, so that nobody who writes waits for who reads.

Standard error of a container is a pipe. When its reader stops, for a full disk on the node say, a
write to it blocks for ever, and an event loop that did it would answer no probe any more.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import TextIO

# So much of time's lines are written at once: a thread that woke for each would take the
# interpreter from the event loop as often.
_GATHER_SECONDS = 0.01
_MOST_CHARACTERS = 4_194_304


class LineWriter:
    """Takes lines from any thread without waiting, and loses some where nobody reads them.

    `tell_lost` makes the line that says how many were lost; it stands where they would.
    """

    def __init__(
        self,
        stream: TextIO,
        tell_lost: Callable[[int], str],
        *,
        most_characters: int = _MOST_CHARACTERS,
    ) -> None:
        self._stream = stream
        self._tell_lost = tell_lost
        self._most_characters = most_characters
        self._lines: list[str] = []
        self._characters = 0
        self._lost = 0
        self._writing = False
        self._closed = False
        # Its lock may be taken again by the same thread: a signal's handler may log too.
        self._changed = threading.Condition()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Take a line, or count it as lost where too many wait."""
        with self._changed:
            if self._characters + len(line) > self._most_characters:
                self._lost += 1
                return
            self._characters += len(line) + 1
            self._lines.append(line)
            if len(self._lines) == 1:
                self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, for so long at most; tell whether it is."""
        self._now.set()
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, seconds)

    def close(self) -> None:
        """Take no more; the thread ends when all is written."""
        self._now.set()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while lines := self._take():
            # Whoever closed the stream reads nothing any more.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write("\n".join([*lines, ""]))
                self._stream.flush()
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _take(self) -> list[str]:
        """Wait for lines and return all there are; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed)
        self._now.wait(_GATHER_SECONDS)
        with self._changed:
            if not self._closed:
                self._now.clear()
            lines, self._lines = self._lines, []
            self._characters = 0
            self._writing = bool(lines)
            lost, self._lost = self._lost, 0
        return [*lines, self._tell_lost(lost)] if lost else lines
