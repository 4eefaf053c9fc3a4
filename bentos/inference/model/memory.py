"""How much memory a pod has left: a model that does not fit is refused, not killed for."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from bentos.inference.model.spec import UnusableModel

# A model's weights lie in memory once; beside them come its graph and the numbers of one call.
_SHARE = 1.1
_BESIDE_BYTES = 64 * 1024 * 1024
_MIB = 1024 * 1024
# Limit, use, and the name in memory.stat of cached files, which the kernel gives up when it must.
_VERSIONS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def check_fits(size: int, root: Path = Path("/sys/fs/cgroup")) -> None:
    """Refuse a model of `size` bytes of weights for which too little memory is left.

    Raises UnusableModel.
    """
    need = int(size * _SHARE) + _BESIDE_BYTES
    free = free_bytes(root)
    if need > free:
        raise UnusableModel(
            f"the model needs about {need // _MIB} MiB of memory and {free // _MIB} MiB are left; "
            "raise the memory limit, which has to hold the old and the new model together"
        )


def free_bytes(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory left below every limit: of the machine and of each control group.

    See "Memory interface files" of the kernel's cgroup-v2 document.
    """
    free = int(psutil.virtual_memory().available)
    for group in _groups(root):
        for limit, use, cached in _VERSIONS:
            try:
                most = int((group / limit).read_text())
                used = int((group / use).read_text())
                stat = dict(
                    line.split() for line in (group / "memory.stat").read_text().split("\n") if line
                )
            except (OSError, ValueError):  # not there, or `max`: no limit
                continue
            free = min(free, most - used + int(stat.get(cached, 0)))
    return max(free, 0)


def _groups(root: Path) -> Iterator[Path]:
    """Give the control groups of this process, up to the root of what it sees."""
    try:
        lines = Path("/proc/self/cgroup").read_text().split("\n")
    except OSError:
        lines = []
    for line in filter(None, lines):
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root / controllers
            group = top / path.lstrip("/")
            while group != top and top in group.parents:
                yield group
                group = group.parent
            yield top
