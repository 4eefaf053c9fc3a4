"""The answers of running services that docs/health-endpoints.md shows, kept in docs/answers.json.

`python -m tests.docs.answers` writes the file from running services; a test holds it against them.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ANSWERS = Path(__file__).resolve().parent / "answers.json"


@dataclass(frozen=True)
class Answer:
    """One answer: to which request of which service, with which status, reason and body.

    `name` tells apart answers that have request, status and reason in common.
    """

    service: str
    request: str
    status: int
    reason: str
    name: str
    body: dict[str, Any]

    @property
    def key(self) -> str:
        """What names the answer on a page, such as `logging-service POST /log 409 conflict`."""
        end = f", {self.name}" if self.name else ""
        return f"{self.service} {self.request} {self.status} {self.reason}".rstrip() + end

    @property
    def is_probe(self) -> bool:
        """Whether `/health` or `/ready` gave it."""
        return self.request in ("GET /health", "GET /ready")

    @property
    def shape(self) -> object:
        """The body with each value replaced by the name of its type."""
        return shape(self.body)


def shape(value: object) -> object:
    """Return a JSON value with its leaves replaced by the names of their types.

    All numbers are one type, and of a list only the first item counts.
    """
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__


def differences(stored: object, found: object, path: str = "") -> list[str]:
    """Return where two shapes differ; a null agrees with everything."""
    if "NoneType" in (stored, found):
        return []
    if isinstance(stored, dict) and isinstance(found, dict):
        lines = [f"{path}/{key} is only in one" for key in stored.keys() ^ found.keys()]
        for key in sorted(stored.keys() & found.keys()):
            lines += differences(stored[key], found[key], f"{path}/{key}")
        return lines
    if isinstance(stored, list) and isinstance(found, list):
        return differences(stored[0], found[0], f"{path}[]") if stored and found else []
    return [] if stored == found else [f"{path} is {stored} in one and {found} in the other"]


def read_answers() -> dict[str, Answer]:
    """Return the stored answers by their keys."""
    stored = [Answer(**item) for item in json.loads(ANSWERS.read_text(encoding="utf-8"))]
    return {answer.key: answer for answer in stored}


def write_answers(answers: Iterable[Answer]) -> None:
    """Store answers, a line each; of those with one key the last counts."""
    by_key = {answer.key: answer for answer in answers}
    lines = ",\n".join(json.dumps(asdict(by_key[key])) for key in sorted(by_key))
    ANSWERS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
