"""Directories whose names are on disk before they are used: a power cut leaves them there."""

import os
from pathlib import Path


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, where they are missing; OSError where it cannot be."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the disk take what was made, renamed and deleted in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
