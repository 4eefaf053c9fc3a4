"""Small disks and read-only ones, where the machine lets a test make them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(directory: Path, *, size: str) -> Iterator[Path]:
    """Mount a file system of that size; the test is skipped where mounting is not permitted."""
    directory.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory))
    try:
        yield directory
    finally:
        # Lazily: a server that a failed test left behind may still have files open there.
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def remount_read_only(directory: Path) -> None:
    """Refuse all writes to a mounted disk; OSError is what a process gets that tries."""
    _run("mount", "-o", "remount,ro", str(directory))


def remount_writable(directory: Path) -> None:
    """Take writes on a mounted disk again."""
    _run("mount", "-o", "remount,rw", str(directory))


@contextmanager
def immutable(*paths: Path) -> Iterator[None]:
    """Have the kernel refuse writes to files, root's included; skipped where it cannot."""
    names = [str(path) for path in paths]
    _run("chattr", "+i", *names)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *names], check=True)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]} here")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{' '.join(command)} is not permitted here: {error.stderr.strip()}")
