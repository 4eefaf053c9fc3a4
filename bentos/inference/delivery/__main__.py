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
from contextlib import ExitStack, closing
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
    try:
        with ExitStack() as stack:
            outboxes = {
                worker: stack.enter_context(closing(Outbox(path, create=False, checkpoint_pages=0)))
                for worker, path in outboxes_in(chosen.path).items()
            }
            return _run(chosen, outboxes)
    except (sqlite3.Error, OSError) as error:
        print(f"{chosen.path}: {error}", file=sys.stderr)
        return 1


def _run(chosen: argparse.Namespace, outboxes: dict[int, Outbox]) -> int:
    if chosen.command == "list":
        for worker, outbox in outboxes.items():
            counts = outbox.count()
            print(f"{outbox.path}: {counts.waiting} wait, {counts.dead_letters} refused")
            for letter in _letters(outbox):
                print(f"  {worker}:{letter.id}  {_time(letter)}  {_one_line(letter.reason)}")
        return 0
    numbers = {worker: {at for owner, at in chosen.ids if owner == worker} for worker in outboxes}
    found = 0
    for worker, outbox in outboxes.items():
        every = chosen.all or not chosen.ids
        for letters in _pages(outbox):
            picked = [one for one in letters if every or one.id in numbers[worker]]
            found += len(picked)
            if chosen.command == "resend":
                outbox.resend([one.id for one in picked])
            elif chosen.command == "discard":
                outbox.discard([one.id for one in picked])
            else:
                _print(worker, picked, indent=chosen.command == "show")
    if chosen.command in ("resend", "discard"):
        print(f"{found} predictions: {_COMMANDS[chosen.command]}")
    return 0 if found >= len(set(chosen.ids)) else 1


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


def _letters(outbox: Outbox) -> Iterator[DeadLetter]:
    for letters in _pages(outbox):
        yield from letters


def _time(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.refused_at, UTC).isoformat(timespec="seconds")


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _worker_and_number(text: str) -> tuple[int, int]:
    worker, _, number = text.partition(":")
    return int(worker), int(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
