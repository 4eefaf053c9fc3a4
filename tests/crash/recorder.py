"""What a program did to the files of a directory, recorded by strace and read in order."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.disk import Disk, Truncate, Write
from tests.support.servers import ROOT

_CALLS = (
    *("open", "openat", "creat", "pwrite64", "write", "ftruncate", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat"),
)
# Calls that could change a file and that the model of the disk does not know.
_UNKNOWN = ("fallocate", "pwritev", "pwritev2", "writev", "copy_file_range", "sendfile", "link")
_LINE = re.compile(
    r"(?P<thread>\d+)\s+(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)"
)
_UNFINISHED = " <unfinished ...>"
# strace prints bytes as hexadecimal numbers: a descriptor with its path, and texts.
_DESCRIPTOR = re.compile(r"\d+<(?P<bytes>(?:\\x[0-9a-f]{2})+)>")
_STRING = re.compile(r'"(?P<bytes>(?:\\x[0-9a-f]{2})*)"')


class CannotTrace(Exception):  # noqa: N818
    """strace is not there, or may not be used here."""


@dataclass(frozen=True)
class Call:
    """A call: its name, arguments and result as strace prints them, and whether it has ended."""

    thread: int
    name: str
    arguments: str
    result: str
    ended: bool = True


def record(module: str, arguments: Sequence[str | Path], trace: Path, *, seconds: float) -> None:
    """Run a Python module under strace and write what it did to `trace`.

    Raises CannotTrace where strace cannot be used, AssertionError where the program failed.
    """
    command = ["strace", "-f", "-y", "-xx", "-s", str(1 << 24), "-o", str(trace)]
    command += ["-e", f"trace={','.join((*_CALLS, *_UNKNOWN))}", "-e", "signal=none"]
    command += [sys.executable, "-m", module, *map(str, arguments)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
    except FileNotFoundError:
        raise CannotTrace("there is no strace here") from None
    if "ptrace" in done.stderr.lower() and not trace.stat().st_size:
        raise CannotTrace(f"strace may not be used here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr[-2_000:]


@dataclass(frozen=True)
class Moment:
    """A moment at which the power may be cut: after how many calls, and what was said till then."""

    step: int
    disk: Disk
    said: frozenset[str]


def replay(trace: Path, directory: Path, markers: Path) -> Iterator[Moment]:
    """Yield every moment at which the state of the disk, or what was said, has changed.

    `markers` is a file whose lines are what the program has promised. The disk is the same object
    in each moment: use it before the next.
    """
    disk, said = Disk(), set[str]()
    syncing: dict[int, int] = {}
    for step, call in enumerate(_calls(trace)):
        failed = call.result.startswith("-1")
        paths = [_bytes(match).decode() for match in _DESCRIPTOR.finditer(call.arguments)]
        path = paths[0] if paths else ""
        inside = [_bytes(match) for match in _STRING.finditer(call.arguments)]
        if call.name in ("fsync", "fdatasync") and _is_of(path, directory):
            if not call.ended:
                syncing[call.thread] = disk.pending_of(path)
                continue
            covered = syncing.pop(call.thread, disk.pending_of(path))
            yield Moment(step, disk, frozenset(said))
            if not failed:
                disk.synced(path, covered)
        elif not call.ended or failed:
            continue
        elif call.name in ("write", "pwrite64") and path == str(markers):
            said.update(inside[0].decode().split("\n"))
        elif call.name in _UNKNOWN and any(_within(one, directory) for one in paths):
            raise AssertionError(f"the model of the disk does not know {call.name}")
        elif not _apply(disk, call, path, inside, directory):
            continue
        yield Moment(step, disk, frozenset(said))


def _apply(disk: Disk, call: Call, path: str, inside: list[bytes], directory: Path) -> bool:
    names = [one.decode("utf-8", "replace") for one in inside[-2:]]
    match call.name:
        case "open" | "openat" | "creat" if names and _within(names[-1], directory):
            create = call.name == "creat" or "O_CREAT" in call.arguments
            truncate = call.name == "creat" or "O_TRUNC" in call.arguments
            disk.opened(names[-1], create=create, truncate=truncate)
            return create or truncate
        case "pwrite64" if _within(path, directory):
            offset = int(call.arguments.rsplit(",", 1)[1].strip(" )"))
            disk.changed(path, Write(offset, inside[0][: int(call.result)]))
        case "write" if _within(path, directory):
            raise AssertionError(f"write() to {path}: the model knows no file position")
        case "ftruncate" if _within(path, directory):
            size = int(call.arguments.rsplit(",", 1)[1].strip(" )"))
            disk.changed(path, Truncate(size))
        case "mkdir" | "mkdirat" if _within(names[0], directory):
            disk.made(names[0])
        case "rename" | "renameat" | "renameat2" if _within(names[0], directory):
            disk.renamed(names[0], names[1])
        case "unlink" | "unlinkat" if names and _within(names[-1], directory):
            disk.renamed(names[-1], None)
        case _:
            return False
    return True


def _calls(trace: Path) -> Iterator[Call]:
    """Yield calls in the order they ended; an fsync also where it began."""
    begun: dict[int, tuple[str, str]] = {}
    with trace.open() as lines:
        for line in lines:
            match = _LINE.match(line.rstrip("\n"))
            if match is None:
                continue
            thread, rest = int(match["thread"]), match["rest"]
            if match["call"] and rest.endswith(_UNFINISHED):
                begun[thread] = (match["call"], rest.removesuffix(_UNFINISHED))
                yield Call(thread, match["call"], begun[thread][1], "", ended=False)
                continue
            if match["resumed"]:
                name, arguments = begun.pop(thread)
                arguments += rest.rsplit(" = ", 1)[0]
            else:
                name, arguments = match["call"], rest.rsplit(" = ", 1)[0]
            result = rest.rsplit(" = ", 1)[-1]
            yield Call(thread, name, arguments, result.split("<", 1)[0].split(" ", 1)[0])


def _bytes(match: re.Match[str]) -> bytes:
    return bytes.fromhex(match["bytes"].replace("\\x", ""))


def _is_of(path: str, directory: Path) -> bool:
    """Tell whether an fsync of the path brings a name to the disk, or what is in a file."""
    return _within(path, directory) or path == str(directory.parent)


def _within(path: str, directory: Path) -> bool:
    return path == str(directory) or path.startswith(f"{directory}/")
