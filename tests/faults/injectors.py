"""Ways to break a running service from outside, each for as long as a `with` block."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.servers import wait_until
from tests.support.tools import missing_tool

_ATTACH_SECONDS = 20.0


@contextmanager
def suspended(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop processes as `kill -STOP` does, and let them go on."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def system_calls(
    process: psutil.Process, calls: str, effect: str, *, paths: Sequence[Path] = ()
) -> Iterator[None]:
    """Let system calls of a process fail or take long, by strace's `inject`.

    `calls` are names with commas between them, `effect` is as in `error=EIO` or
    `delay_enter=8000000`, in microseconds. With `paths` only calls on these files count.
    """
    program = shutil.which("strace")
    if program is None:
        missing_tool("strace is not installed: apt-get install strace")
    command = [program, "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:{effect}", *(f"-P{path}" for path in paths)]
    status = Path(f"/proc/{process.pid}/status")
    with subprocess.Popen([*command, "-p", str(process.pid)]) as strace:
        try:
            wait_until(
                lambda: f"TracerPid:\t{strace.pid}\n" in status.read_text(),
                "strace is attached",
                seconds=_ATTACH_SECONDS,
            )
            yield
        finally:
            strace.terminate()


def faketime_library() -> Path:
    """Return the library that gives a program another clock."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if found is None:
        missing_tool("libfaketime is not installed: apt-get install libfaketime")
    return found


@contextmanager
def no_descriptors(process: psutil.Process) -> Iterator[None]:
    """Let a process open no file and take no connection more than it has."""
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    taken = {int(path.name) for path in Path(f"/proc/{process.pid}/fd").iterdir()}
    # A new descriptor is the lowest number that is free, and has to be below the limit.
    lowest = min(number for number in range(len(taken) + 1) if number not in taken)
    process.rlimit(psutil.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def written(path: Path, content: str) -> Iterator[None]:
    """Let a file have other content meanwhile."""
    before = path.read_text()
    replace(path, content.encode())
    try:
        yield
    finally:
        replace(path, before.encode())


@contextmanager
def moved_away(*paths: Path) -> Iterator[None]:
    """Let files be elsewhere meanwhile."""
    pairs = [(path, path.with_name(f"{path.name}.away")) for path in paths if path.exists()]
    for path, away in pairs:
        path.rename(away)
    try:
        yield
    finally:
        for path, away in pairs:
            away.rename(path)


@contextmanager
def overwritten(path: Path, content: bytes, *, repair: Callable[[], None]) -> Iterator[None]:
    """Write over the beginning of a file; `repair` is what an operator does in the end."""
    with path.open("r+b") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        yield
    finally:
        repair()


def replace(path: Path, content: bytes) -> None:
    """Put a file in a file's place at once, so that no reader sees a part."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.rename(path)
