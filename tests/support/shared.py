"""What the processes of a parallel run make once and use together."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the whole run, which all of its processes have."""
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep the other processes, and other threads, that lock this file waiting for the block."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def once(path: Path, make: Callable[[], str]) -> str:
    """Return what the first process that came here has made, a text that is kept in the file."""
    with locked(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            made = make()
            path.write_text(made)
        return path.read_text()
