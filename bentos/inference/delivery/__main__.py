"""Predictions that the logging service refused: look at them, send them again, take them away.

    python -m bentos.inference.delivery list
    python -m bentos.inference.delivery show 1:17
    python -m bentos.inference.delivery resend 1:17 1:18        (or --all)
    python -m bentos.inference.delivery export > refused.ndjson
    python -m bentos.inference.delivery discard 1:17            (or --all)

`1:17` is number 17 of worker 1. `--path` names the directory, OUTBOX_PATH by default. The service
may run meanwhile.
"""

import argparse
import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import orjson

from bentos.inference.delivery.outbox import DeadLetter, Outbox, outboxes_in

_COMMANDS = {
    "list": "what waits, and what was refused and why",
    "show": "refused predictions with all their fields",
    "resend": "put refused predictions back, to be sent again",
    "export": "print refused predictions, one JSON object a line",
    "discard": "delete refused predictions",
}
_ROWS_AT_ONCE = 500


def main(arguments: Sequence[str]) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bentos.inference.delivery",
        description="Predictions that the logging service refused, and what still waits for it.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--path",
            type=Path,
            default=Path(os.environ.get("OUTBOX_PATH", ".data/outbox")),
            help="directory of the outboxes (OUTBOX_PATH)",
        )
        if name != "list":
            command.add_argument("ids", nargs="*", metavar="WORKER:NUMBER", type=_worker_and_number)
            command.add_argument("--all", action="store_true", help="all that were refused")
    chosen = parser.parse_args(arguments)
    if chosen.command in ("show", "resend", "discard") and not (chosen.ids or chosen.all):
        parser.error("name predictions as WORKER:NUMBER, or --all")
    wanted = set(chosen.ids) if chosen.command != "list" else set()
    found = 0
    for worker, path in outboxes_in(chosen.path).items():
        numbers = {number for owner, number in wanted if owner == worker}
        try:
            with closing(Outbox(path, create=False, log_bytes=0)) as outbox:
                found += _run(chosen.command, worker, outbox, numbers, every=not wanted)
        except (sqlite3.Error, OSError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
    if chosen.command in ("resend", "discard"):
        print(f"{found} predictions: {_COMMANDS[chosen.command]}")
    return 0 if found >= len(wanted) else 1


def _run(command: str, worker: int, outbox: Outbox, numbers: set[int], *, every: bool) -> int:
    """Run a command on one worker's outbox; return how many predictions it was for."""
    if command == "list":
        counts = outbox.count()
        print(f"{outbox.path}: {counts.waiting} wait, {counts.dead_letters} refused")
    found = 0
    for letters in _pages(outbox):
        picked = [letter for letter in letters if every or letter.id in numbers]
        found += len(picked)
        match command:
            case "list":
                for letter in picked:
                    print(f"  {worker}:{letter.id}  {_time(letter)}  {_one_line(letter.reason)}")
            case "resend":
                outbox.resend([letter.id for letter in picked])
            case "discard":
                outbox.discard([letter.id for letter in picked])
            case _:
                _print(worker, picked, indent=command == "show")
    return found


def _print(worker: int, letters: Sequence[DeadLetter], *, indent: bool) -> None:
    for letter in letters:
        content = {
            "id": f"{worker}:{letter.id}",
            "refused_at": _time(letter),
            "status": letter.status,
            "reason": letter.reason,
            "prediction": orjson.loads(letter.prediction),
        }
        print(orjson.dumps(content, option=orjson.OPT_INDENT_2 if indent else 0).decode())


def _pages(outbox: Outbox) -> Iterator[list[DeadLetter]]:
    after = 0
    while letters := outbox.dead_letters(after=after, rows=_ROWS_AT_ONCE):
        after = letters[-1].id
        yield letters


def _time(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.refused_at, UTC).isoformat(timespec="seconds")


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _worker_and_number(text: str) -> tuple[int, int]:
    worker, _, number = text.partition(":")
    return int(worker), int(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
