"""Says whether the challenger is better than the served model, by pictures that people labelled.

Run `python -m examples.compare`; `--help` lists the options.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from bentos.inference.model.warm_up import LoadedModel
from examples.command import UsageError, add_model_options, ask, load_version, run
from examples.dataset import SUFFIXES
from examples.pairs import Difference, Finding, Pairs

_PAGE: Final = 1_000
_GONE: Final = (404, 410)


@dataclass(frozen=True)
class Labelled:
    """A picture's file, what it shows, and for how many pictures it stands."""

    content: bytes
    true_class: str
    weight: float = 1.0


@dataclass(frozen=True)
class Said:
    """What a model said of a picture."""

    class_name: str
    passed: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare as the command line asks and return the exit status."""
    return run(_compare, _parser(), arguments)


def _compare(options: argparse.Namespace) -> None:
    champion, challenger = (
        load_version(options, alias)[1] for alias in (options.alias, options.challenger)
    )
    if champion.identity.version == challenger.identity.version:
        raise UsageError(
            f"{options.alias} and {options.challenger} are both version "
            f"{champion.identity.version} of {options.model}"
        )
    pictures = list(_in_folder(options.data) if options.data else _in_review(options.logging_url))
    if not pictures:
        raise UsageError("there is no labelled picture")
    said = _ask(champion, pictures), _ask(challenger, pictures)
    defects = _defects(challenger) | _defects(champion)
    right = _pairs(
        pictures,
        *(
            [
                one.class_name == picture.true_class
                for one, picture in zip(of, pictures, strict=True)
            ]
            for of in said
        ),
    )
    shown = [index for index, one in enumerate(pictures) if defects.get(one.true_class)]
    caught = _pairs(
        [pictures[index] for index in shown],
        *([not of[index].passed for index in shown] for of in said),
    )
    print(
        f"{options.model}: version {champion.identity.version} ({options.alias}) against version "
        f"{challenger.identity.version} ({options.challenger})\n"
        f"{len(right)} labelled pictures, {len(caught)} of them defects\n"
    )
    unknown = sorted({one.true_class for one in pictures} - defects.keys())
    if unknown:
        print(
            f"note: neither model has the class {', '.join(unknown)}: each of these counts as "
            "wrong for both, and as no defect\n"
        )
    print(_conclusion(_show(right, caught)))


def _defects(model: LoadedModel) -> dict[str, bool]:
    return dict(zip(model.spec.class_names, model.spec.defects, strict=True))


def _ask(model: LoadedModel, pictures: Sequence[Labelled]) -> list[Said]:
    """Return what a model says of the pictures."""
    said: list[Said] = []
    for row in ask(model, [one.content for one in pictures]):
        index = int(row.argmax())
        verdict = model.spec.verdict(index, round(float(row[index]), 6))
        said.append(Said(model.spec.class_names[index], verdict == "pass"))
    return said


def _pairs(pictures: Sequence[Labelled], first: Sequence[bool], second: Sequence[bool]) -> Pairs:
    return Pairs(
        np.array(first, bool),
        np.array(second, bool),
        np.array([one.weight for one in pictures], float),
    )


def _in_folder(folder: Path) -> Iterator[Labelled]:
    """Yield the pictures of `folder/<class>/`."""
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is not a folder")
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in SUFFIXES:
            yield Labelled(path.read_bytes(), path.parent.name)


def _in_review(url: str) -> Iterator[Labelled]:
    """Yield the labelled pictures of a logging service that belong to its random sample.

    The others were kept because they were doubtful, or because the two models differ: whoever
    compares by them finds what they were kept for. So would labels that were given because of what
    the picture shows, as of a defect that a customer found; of all others the last one counts.
    """
    token = os.environ.get("LOGGING_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=30.0) as client:
        labels: dict[tuple[str, str], dict[str, Any]] = {}
        after: int | None = 0
        while after is not None:
            page = _json(client.get("/labels", params={"after": after, "limit": _PAGE}))
            for label in page["labels"]:
                if not label["reported"]:
                    labels[label["prediction_id"], label["edge_device_id"]] = label
            after = page["next"]
        for label in labels.values():
            if label["true_class"] and label["sampled"] and label["picture_kept"]:
                yield from _picture(client, label)


def _picture(client: httpx.Client, label: dict[str, Any]) -> Iterator[Labelled]:
    """Yield a label's picture, unless it was deleted meanwhile."""
    where = {"id": label["prediction_id"], "device": label["edge_device_id"]}
    answer = client.get("/review/picture", params=where)
    if answer.status_code not in _GONE:
        answer.raise_for_status()
        yield Labelled(answer.content, label["true_class"], 1 / label["sample_probability"])


def _json(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code in _GONE:
        raise UsageError(f"{answer.url.host} keeps no labels: REVIEW is off there")
    answer.raise_for_status()
    content: dict[str, Any] = answer.json()
    return content


def _show(right: Pairs, caught: Pairs) -> list[Finding]:
    """Print a row for each comparison and return what the rows say of the challenger."""
    print(
        f"{'':<14}{'champion':>10}{'challenger':>12}{'difference':>12}"
        f"{'95% interval':>20}{'only one well':>15}{'p *':>8}"
    )
    findings = [_row("right class", right), _row("escape rate", caught, escapes=True)]
    print(
        "\nonly one well: pictures on which only the champion, or only the challenger, did well\n"
        "* McNemar's, each picture once: the probability of so uneven pairs between equals\n"
    )
    return findings


def _row(name: str, pairs: Pairs, *, escapes: bool = False) -> Finding:
    if not len(pairs):
        print(f"{name:<14}no such picture")
        return "cannot tell"
    difference = pairs.difference()
    first, second = pairs.rates
    shown = difference
    if escapes:  # a defect that did not escape is what is well
        first, second = 1 - first, 1 - second
        shown = Difference(-difference.estimate, -difference.high, -difference.low)
    interval = f"{shown.low:+.1%} to {shown.high:+.1%}"
    only = f"{pairs.only_first} / {pairs.only_second}"
    print(
        f"{name:<14}{first:>10.1%}{second:>12.1%}{shown.estimate:>+12.1%}"
        f"{interval:>20}{only:>15}{pairs.chance():>8.2g}  {difference.finding}"
    )
    return difference.finding


def _conclusion(findings: Sequence[Finding]) -> str:
    found = {one for one in findings if one != "cannot tell"}
    if not found:
        return "cannot tell whether the challenger is better: label more pictures"
    if len(found) == 2:
        return "the challenger is better in one and worse in the other: weigh what each costs"
    if "cannot tell" not in findings:
        return f"the challenger is {found.pop()}"
    by, unknown = ("right class", "escape rate")[:: -1 if findings[0] == "cannot tell" else 1]
    return f"the challenger is {found.pop()} by the {by}; the {unknown} does not tell"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.compare",
        description="Say whether the challenger is better than the served model: on the labelled "
        "pictures of a logging service, or of a folder on which neither was trained.",
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="FOLDER", help="labelled pictures: FOLDER/<class>/*.png")
    add(
        "--logging-url",
        default=os.environ.get("LOGGING_URL") or "http://127.0.0.1:8001",
        metavar="URL",
        help="logging service, without --data (LOGGING_URL, else http://127.0.0.1:8001); "
        "LOGGING_TOKEN is its token",
    )
    add_model_options(parser, alias="of the served version")
    add("--challenger", default="challenger", metavar="ALIAS", help="of the other (challenger)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
