"""The commands of the documents, read from their ```console blocks, and a place to run them in.

A block that no test runs has a comment before it that says why not: `<!-- not run: why -->`.
`<!-- ctrl-c: command -->` is where the page asks for a Ctrl-C in the command's terminal.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from docs.answers import differences, shape
from local.process import ROOT, Process, clean_environment

_BLOCK = re.compile(
    r"<!-- ctrl-c: (?P<ended>[^\n]*?) -->"
    r"|(?:<!-- not run: (?P<why>[^\n]*?) -->\n)?```console\n(?P<text>.*?)```",
    re.DOTALL,
)
_LOOPBACK_UP = (
    "import fcntl, socket, struct; "
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x41))"
)


@dataclass(frozen=True)
class Step:
    """A command of a page, what the page says it prints, and why no test runs it, if none does.

    With `ends` it is a Ctrl-C for the command, which was started before.
    """

    command: str
    output: tuple[str, ...] = ()
    not_run: str = ""
    ends: bool = False


def steps(text: str) -> list[Step]:
    """Return the commands of a page's console blocks, in their order."""
    found: list[Step] = []
    for block in _BLOCK.finditer(text):
        if block["ended"]:
            found.append(Step(block["ended"], ends=True))
            continue
        for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
            command, _, output = part.replace("\\\n", " ").partition("\n")
            found.append(Step(command, tuple(output.splitlines()), block["why"] or ""))
    return found


def disagreement(shown: tuple[str, ...], found: str) -> str:
    """Return which line of a page's output a command did not print; empty where it printed all.

    Numbers may differ, and so may the values of a JSON object, but not their types.
    """
    lines = iter(found.splitlines())
    for line in shown:
        if line.strip() != "..." and not any(_alike(line, other) for other in lines):
            return line
    return ""


def _alike(shown: str, found: str) -> bool:
    try:
        first, second = json.loads(shown), json.loads(found)
    except ValueError:
        return _without_numbers(shown) == _without_numbers(found)
    return not differences(shape(first), shape(second))


def _without_numbers(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"-{3,}", "---", re.sub(r"[\d.,]+", "0", line))).strip()


class Machine:
    """A copy of the repository with a network of its own, where every port is free."""

    def __init__(self, directory: Path, namespace: Process) -> None:
        self.directory = directory
        self._inside = ["nsenter", f"--net=/proc/{namespace.pid}/ns/net", "--"]
        self._environment = clean_environment(
            BENTOML_DO_NOT_TRACK="True", XDG_CACHE_HOME=str(directory.parent / "cache")
        )

    def run(self, command: str, *, seconds: float = 600.0) -> str:
        """Run a shell's command and return what it printed; AssertionError where it fails."""
        finished = subprocess.run(
            [*self._inside, "bash", "-c", command],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert finished.returncode == 0, f"{command}\n{finished.stdout}"
        return finished.stdout

    def start(self, command: str) -> Process:
        """Start a command that stays in the foreground of a terminal of its own."""
        log = self.directory.parent / f"{re.sub(r'[^a-z]+', '-', command)}.log"
        return Process(
            [*self._inside, "bash", "-c", f"exec env {command}"],
            log=log,
            environment=self._environment,
            directory=self.directory,
        )


@contextmanager
def machine(directory: Path) -> Iterator[Machine]:
    """Yield a copy of the repository's files in a network of its own.

    Raises OSError where this machine does not let us have one.
    """
    copy = directory / "repository"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.splitlines():
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    # By its age make knows that all is installed.
    os.utime(copy / "requirements" / "dev.txt", (0, 0))
    (copy / ".venv").symlink_to((ROOT / ".venv").resolve())
    with Process(
        ["unshare", "--net", "--", "sleep", "infinity"], environment=clean_environment()
    ) as namespace:
        made = Machine(copy, namespace)
        try:
            namespace.wait_until(lambda: _is_apart(namespace.pid), "a network", seconds=10)
            made.run(f'.venv/bin/python -c "{_LOOPBACK_UP}"')
        except (AssertionError, RuntimeError) as error:
            raise OSError(f"no network namespace: {error}") from error
        yield made


def _is_apart(pid: int) -> bool:
    own, other = (Path(f"/proc/{one}/ns/net").readlink() for one in ("self", pid))
    return own != other


def replaced(text: str, names: Mapping[str, str]) -> str:
    """Return a text with names of the page replaced by those of the test."""
    for name, other in names.items():
        text = text.replace(name, other)
    return text
