"""What can still be read of a damaged outbox, page by page.

SQLite gives a file up at its first damaged page. Here each page of the file and of its write-ahead
log is read by itself; a page with rows is known by its type, and a row by columns that make sense.
Rows never change, so an old image of a page can at worst bring back predictions that have left the
outbox: `progress.floor` tells most of them, and the logging service knows the others by their ids.
Format: https://www.sqlite.org/fileformat2.html
"""

import mmap
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import compress, islice
from operator import not_
from pathlib import Path
from typing import TypeAlias

import orjson

from bentos.inference.delivery.outbox import (
    PAGE_BYTES,
    Outbox,
    made_whole,
    remove,
    rename,
    wal_path,
)

_LEAF = 0x0D
_SCHEMA_PAGE = 1
_WAL_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_ROWS_AT_ONCE = 1_000
# A longer row goes on in overflow pages; so much of it stays on its own page, at least.
_LONGEST_ON_PAGE = PAGE_BYTES - 35
_LEAST_ON_PAGE = (PAGE_BYTES - 12) * 32 // 255 - 23

Value: TypeAlias = int | float | bytes | str | None
Row: TypeAlias = tuple[int, Sequence[Value]]


@dataclass(frozen=True)
class Salvage:
    """Predictions that could be read, and how many ids between them could not."""

    recovered: int
    lost: int
    kept_as: Path | None


def salvage(damaged: Path, target: Path) -> Salvage:
    """Write what a damaged file still holds into a sound one at `target`.

    The damaged file is deleted where its own figures say that nothing is missing; otherwise it is
    kept under another name. Raises sqlite3.Error or OSError where the disk fails; then nothing has
    changed, and it can be tried again.
    """
    with made_whole(target) as partial, ExitStack() as stack:
        Outbox(partial).close()
        pages = Pages.of(damaged, stack)
        connection = stack.enter_context(closing(sqlite3.connect(partial)))
        found = _copy(pages, connection)
    if found.known and not found.lost:
        remove(damaged)
        return Salvage(found.recovered, 0, None)
    kept = damaged.with_name(damaged.name.replace(".damaged-", ".unreadable-"))
    rename(damaged, kept)
    return Salvage(found.recovered, found.lost, kept)


@dataclass
class Pages:
    """Every image of every page, as the file and its log hold them; the newest is the last."""

    images: dict[int, list[memoryview]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, path: Path, stack: ExitStack) -> "Pages":
        """Map a file and its log for as long as the stack is open; either may be missing."""
        pages = cls()
        content = _mapped(path, stack)
        log = _mapped(wal_path(path), stack)
        frame = _FRAME_HEADER_BYTES + PAGE_BYTES
        frames = range(_WAL_HEADER_BYTES, len(log) - frame + 1, frame)
        # The log is written over from its start: frames with another salt are of an earlier run.
        current = [log[at + 8 : at + 16] == log[16:24] for at in frames]
        pages._add_frames(log, compress(frames, map(not_, current)))
        for number, at in enumerate(range(0, len(content), PAGE_BYTES), start=1):
            pages.images[number].append(content[at : at + PAGE_BYTES])
        pages._add_frames(log, compress(frames, current))
        return pages

    def _add_frames(self, log: memoryview, frames: Iterable[int]) -> None:
        for at in frames:
            number = int.from_bytes(log[at : at + 4], "big")
            start = at + _FRAME_HEADER_BYTES
            self.images[number].append(log[start : start + PAGE_BYTES])

    def rows(self) -> Iterator[Row]:
        """Return all that can be read as a row of any table."""
        for number, images in self.images.items():
            for image in images if number != _SCHEMA_PAGE else ():
                yield from self._rows_on(image)

    def _rows_on(self, page: memoryview) -> Iterator[Row]:
        if len(page) < PAGE_BYTES or page[0] != _LEAF:
            return
        cells = int.from_bytes(page[3:5], "big")
        for at in range(8, min(8 + 2 * cells, PAGE_BYTES - 1), 2):
            start = int.from_bytes(page[at : at + 2], "big")
            try:
                size, start = _varint(page, start)
                row_id, start = _varint(page, start)
                yield row_id, _values(self._payload(page, start, size))
            except (IndexError, ValueError, struct.error):
                continue  # no row, or not a whole one

    def _payload(self, page: memoryview, start: int, size: int) -> bytes:
        here = size
        if size > _LONGEST_ON_PAGE:
            here = _LEAST_ON_PAGE + (size - _LEAST_ON_PAGE) % (PAGE_BYTES - 4)
            if here > _LONGEST_ON_PAGE:
                here = _LEAST_ON_PAGE
        payload = bytearray(page[start : start + here])
        following = page[start + here : start + here + 4]
        while len(payload) < size:
            # Of a number that no page has there is an empty list.
            overflow = self.images.get(int.from_bytes(following, "big"), [])[-1]
            payload += overflow[4 : 4 + min(size - len(payload), PAGE_BYTES - 4)]
            following = overflow[:4]
        return bytes(payload)


@dataclass
class _Found:
    recovered: int
    lost: int
    known: bool


def _copy(pages: Pages, target: sqlite3.Connection) -> _Found:
    floor, last = None, 0
    rows = pages.rows()
    while part := list(islice(rows, _ROWS_AT_ONCE)):
        with target:
            for row_id, values in part:
                match values:
                    case (None, bytes(prediction)) if _is_prediction(prediction):
                        target.execute(
                            "INSERT OR IGNORE INTO outbox VALUES (?, ?)", (row_id, prediction)
                        )
                        last = max(last, row_id)
                    case (None, float() | int(), int(), str(), bytes(prediction)) if _is_prediction(
                        prediction
                    ):
                        target.execute(
                            "INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?, ?, ?)",
                            (row_id, *values[1:]),
                        )
                    case (None, int(reached), int()):
                        floor = max(floor or 0, reached)
                    case ("outbox", int(sequence)):
                        last = max(last, sequence)
    return _finish(target, floor, last)


def _finish(target: sqlite3.Connection, floor: int | None, last: int) -> _Found:
    with target:
        first = target.execute("SELECT coalesce(min(id) - 1, ?) FROM outbox", (last,)).fetchone()[0]
        start = first if floor is None else floor
        target.execute("DELETE FROM outbox WHERE id <= ?", (start,))
        target.execute("UPDATE progress SET floor = ?", (start,))
        recovered = target.execute("SELECT count(*) FROM outbox").fetchone()[0]
    return _Found(recovered, max(0, last - start - recovered), known=floor is not None)


def _mapped(path: Path, stack: ExitStack) -> memoryview:
    if not path.exists() or path.stat().st_size == 0:
        return memoryview(b"")
    file = stack.enter_context(path.open("rb"))
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return memoryview(content)


def _is_prediction(content: bytes) -> bool:
    try:
        return isinstance(orjson.loads(content), dict)
    except orjson.JSONDecodeError:
        return False


def _varint(data: memoryview | bytes, at: int) -> tuple[int, int]:
    """Return SQLite's integer of one to nine bytes, and where it ends."""
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9


def _values(record: bytes) -> list[Value]:
    """Return the columns of a record."""
    header, at = _varint(record, 0)
    kinds = []
    while at < header:
        kind, at = _varint(record, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        size = _INTEGER_BYTES[kind] if kind < 10 else (kind - 12) // 2
        content = record[at : at + size]
        if len(content) < size:
            raise ValueError("the record is cut off")
        at += size
        values.append(_value(kind, content))
    return values


_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


def _value(kind: int, content: bytes) -> Value:
    match kind:
        case 0:
            return None
        case 7:
            return float(struct.unpack(">d", content)[0])
        case 8 | 9:
            return kind - 8
        case 10 | 11:
            raise ValueError("no column has this type")
    if kind < 10:
        return int.from_bytes(content, "big", signed=True)
    return content.decode() if kind % 2 else content
