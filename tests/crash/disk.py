"""A disk as it may stand after a power cut, computed from the calls that a program made.

A file's content is on disk up to its last fsync; each later write may have reached the disk whole,
in some of its sectors, or not at all, whatever became of the others. A name (made, renamed or
deleted) is on disk after an fsync of its directory; later ones are kept up to any of them, since
file systems log them in order.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import TypeAlias

SECTOR = 512
Content: TypeAlias = Mapping[str, bytes]


@dataclass(frozen=True)
class Write:
    """Bytes written at an offset."""

    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        if len(content) < self.offset:
            content.extend(bytes(self.offset - len(content)))
        content[self.offset : self.offset + len(self.data)] = self.data

    def torn(self, chance: random.Random) -> "list[Change]":
        """Return what may come of it where only some of its sectors reached the disk."""
        sectors = range(0, len(self.data), SECTOR)
        kept = [at for at in sectors if chance.random() < 0.5]
        return [Write(self.offset + at, self.data[at : at + SECTOR]) for at in kept]


@dataclass(frozen=True)
class Truncate:
    """A new length of a file."""

    size: int

    def apply(self, content: bytearray) -> None:
        if len(content) < self.size:
            content.extend(bytes(self.size - len(content)))
        del content[self.size :]

    def torn(self, chance: random.Random) -> "list[Change]":
        """Return all or nothing: a length is one number."""
        return [self] if chance.random() < 0.5 else []


Change: TypeAlias = Write | Truncate


@dataclass
class File:
    """A file: what is on disk, and what has been changed since the last fsync."""

    durable: bytes = b""
    pending: list[Change] = field(default_factory=list)

    def content(self, changes: Sequence[Change]) -> bytes:
        """Return what stands there with some of the changes."""
        content = bytearray(self.durable)
        for change in changes:
            change.apply(content)
        return bytes(content)

    def synced(self, count: int) -> None:
        """Note that the first `count` changes are on disk."""
        self.durable = self.content(self.pending[:count])
        del self.pending[:count]


@dataclass(frozen=True)
class Rename:
    """A change of names: `source` None makes a file, `target` None deletes one."""

    source: str | None
    target: str | None
    file: File | None = None

    def apply(self, names: dict[str, File]) -> None:
        file = self.file if self.source is None else names.pop(self.source, None)
        if self.target is not None and file is not None:
            names[self.target] = file

    def within(self, directory: str) -> bool:
        """Tell whether one of its names is in a directory."""
        paths = (self.source, self.target)
        return any(path and str(PurePosixPath(path).parent) == directory for path in paths)


@dataclass
class Disk:
    """One directory and the files below it, by the paths they have now."""

    now: dict[str, File] = field(default_factory=dict)
    durable: dict[str, File] = field(default_factory=dict)
    pending: list[Rename] = field(default_factory=list)
    # Their names are among those above, as those of files that nothing is written to.
    directories: set[str] = field(default_factory=set)

    def made(self, directory: str) -> None:
        """A directory was made."""
        self.directories.add(directory)
        self._rename(Rename(None, directory, File()))

    def opened(self, path: str, *, create: bool, truncate: bool) -> None:
        """A file was opened, and made where it was missing."""
        if create and path not in self.now:
            self._rename(Rename(None, path, File()))
        elif truncate and path in self.now:
            self.changed(path, Truncate(0))

    def changed(self, path: str, change: Change) -> None:
        """A file was written or cut."""
        if path in self.now:
            self.now[path].pending.append(change)

    def renamed(self, source: str, target: str | None) -> None:
        """A file got another name, or lost its name."""
        if source in self.now:
            self._rename(Rename(source, target))

    def pending_of(self, path: str) -> int:
        """Return how many changes of a file an fsync that begins now will take to the disk."""
        return len(self.now[path].pending) if path in self.now else 0

    def synced(self, path: str, count: int) -> None:
        """An fsync has ended; `count` is what `pending_of` said when it began."""
        if path in self.now and path not in self.directories:
            self.now[path].synced(count)
            return
        rest = []
        for rename in self.pending:
            if rename.within(path):
                rename.apply(self.durable)
            else:
                rest.append(rename)
        self.pending = rest

    def states(self, chance: random.Random, most: int) -> Iterator[Content]:
        """Return `most` states in which the disk may be after a power cut now, at random."""
        names = len(self.pending)
        for _ in range(most):
            style = chance.choice(("all", "none", "mixed", "prefix", "one_lost", "one_torn"))
            kept = {"all": names, "none": 0}.get(style, chance.randint(0, names))
            yield self._state(kept, partial(_some_of, style, chance))

    def _state(self, names: int, choose: Callable[[File], Sequence[Change]]) -> Content:
        found = dict(self.durable)
        for rename in self.pending[:names]:
            rename.apply(found)
        return {
            path: file.content(choose(file))
            for path, file in found.items()
            if path not in self.directories
            and all(one in found for one in self.directories if path.startswith(f"{one}/"))
        }

    def _rename(self, rename: Rename) -> None:
        rename.apply(self.now)
        self.pending.append(rename)


def _some_of(style: str, chance: random.Random, file: File) -> list[Change]:
    """Return some of a file's changes: kept, dropped or torn."""
    changes = file.pending
    if style == "all" or not changes:
        return changes
    if style == "none":
        return []
    one = chance.randrange(len(changes))
    if style == "prefix":
        return [*changes[:one], *changes[one].torn(chance)]
    kept: list[Change] = []
    for at, change in enumerate(changes):
        if style == "mixed":
            fate = chance.choice(("kept", "dropped", "torn"))
        elif at == one:
            fate = "dropped" if style == "one_lost" else "torn"
        else:
            fate = "kept"
        if fate == "kept":
            kept.append(change)
        elif fate == "torn":
            kept += change.torn(chance)
    return kept
