"""What people say of kept pictures: how it is read, and what the store makes of it."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from msgspec.structs import asdict

from bentos.edge.http import ServiceError
from bentos.evidence import ChallengerAnswer, Evidence
from bentos.logging.review.labels import (
    Filters,
    Label,
    Labelled,
    add_labels,
    read_labels,
    read_queue,
)
from bentos.logging.review.request import MAX_LABELS, parse_labels
from bentos.logging.review.store import ReviewStore
from tests.support.evidence import evidence

JSON, CSV = b"application/json", b"text/csv"
ONE = {"prediction_id": "a", "true_class": "crack", "labelled_by": "ada"}
Page = dict[str, Any]
ResultT = TypeVar("ResultT")


class Reviewed:
    """A store in a folder, used from code that is not asynchronous."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, *pictures: Evidence) -> None:
        """Store pictures."""
        self._run(lambda store: store.add(pictures))

    def label(self, *labels: Label) -> Labelled:
        """Store labels."""
        return self.write(lambda connection: add_labels(connection, labels, at=7.0))

    def write(self, change: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Change the database."""
        return self._run(lambda store: store.write(change))

    def labels(self, *, after: int = 0, limit: int = 100) -> Page:
        """Return a page of labels."""
        return self._read(lambda one: read_labels(one, after=after, limit=limit))

    def queue(self, filters: Filters | None = None, *, skip: int = 0, limit: int = 100) -> Page:
        """Return pictures that wait."""
        chosen = filters or Filters()
        return self._read(lambda one: read_queue(one, chosen, skip=skip, limit=limit))

    def waiting(self, filters: Filters | None = None) -> list[str]:
        """Return the ids of the pictures that wait, in order."""
        return [one["prediction_id"] for one in self.queue(filters)["pictures"]]

    def _read(self, question: Callable[[sqlite3.Connection], msgspec.Struct]) -> Page:
        return asdict(self._run(lambda store: store.read(question)))

    def _run(self, use: "Callable[[ReviewStore], Coroutine[Any, Any, ResultT]]") -> ResultT:
        async def run() -> ResultT:
            store = ReviewStore(self._directory)
            try:
                return await use(store)
            finally:
                await store.stop()

        return asyncio.run(run())


@pytest.fixture
def reviewed(tmp_path: Path) -> Reviewed:
    """A store of its own."""
    return Reviewed(tmp_path)


def label(prediction_id: str, true_class: str | None = "crack", **more: Any) -> Label:
    """Return a label by Ada."""
    return Label(prediction_id, true_class, "ada", **more)


def test_one_label_is_an_object_and_several_are_a_list() -> None:
    assert parse_labels(json.dumps(ONE).encode(), JSON) == [Label("a", "crack", "ada")]
    two = {"labels": [ONE, {**ONE, "prediction_id": "b", "note": "at the edge"}]}
    assert parse_labels(json.dumps(two).encode(), JSON)[1].note == "at the edge"


def test_a_class_may_be_called_labels() -> None:
    body = json.dumps({**ONE, "true_class": "labels"}).encode()
    assert parse_labels(body, JSON)[0].true_class == "labels"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "prediction_id,true_class,labelled_by\r\na,crack,ada\r\nb,good,ada\r\n",
            [Label("a", "crack", "ada"), Label("b", "good", "ada")],
        ),
        (
            "\ufeffprediction_id;true_class;labelled_by;note;reported\na;crack;ada;;true\n",
            [Label("a", "crack", "ada", reported=True)],
        ),
        (
            'note,true_class,edge_device_id,prediction_id,labelled_by\n"a ""b""\nc",x,line-4,a,ada',
            [Label("a", "x", "ada", note='a "b"\nc', edge_device_id="line-4")],
        ),
    ],
)
def test_a_csv_file_has_a_header_row(text: str, found: list[Label]) -> None:
    assert parse_labels(text.encode(), CSV) == found


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "prediction_id", "it is missing"),
        ({**ONE, "true_class": 3}, "true_class", "a text of 1 to 512 characters, or null"),
        ({**ONE, "true_class": ""}, "true_class", "a text of 1 to 512 characters, or null"),
        ({**ONE, "labelled_by": "x" * 200}, "labelled_by", "a text of 1 to 128 characters"),
        ({**ONE, "note": "a\0b"}, "note", "without NUL characters"),
        ({"labels": []}, "labels", "at least one label"),
        ({"labels": [ONE, {**ONE, "reported": "x"}]}, "labels[1].reported", "true or false"),
        ({"labels": [{**ONE, "note": "a\0b"}]}, "labels[0].note", "without NUL characters"),
        ({"labels": 3}, "labels", "a list of labels"),
        ([1], "body", "a JSON object"),
    ],
)
def test_a_wrong_label_is_refused_with_its_field(body: object, field: str, said: str) -> None:
    with pytest.raises(ServiceError, match=said) as refused:
        parse_labels(json.dumps(body).encode(), JSON)
    assert (refused.value.status, refused.value.details["field"]) == (400, field)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "header: expected a first row with prediction_id, true_class, labelled_by"),
        (b"prediction_id,true_class\na,crack\n", "header: expected"),
        (b"prediction_id,true_class,labelled_by,colour\na,crack,ada,red\n", "header: expected"),
        (b"prediction_id,true_class,labelled_by,note,note\na,crack,ada,,\n", "header: expected"),
        (b"prediction_id,true_class,labelled_by\n", "at least one label"),
        (b"prediction_id,true_class,labelled_by\na,crack\n", r"labels\[0\]: expected as many"),
        (b"prediction_id,true_class,labelled_by\na,crack,ada,x\n", r"labels\[0\]: expected as"),
        (b"prediction_id,true_class,labelled_by\na,,ada\n", r"labels\[0\].true_class: expected"),
        (b"prediction_id,true_class,labelled_by\n,x,ada\n", r"labels\[0\].prediction_id: exp"),
        (b'prediction_id,true_class,labelled_by\na,"x"y,ada\n', "line 2 of the file is no CSV"),
        (b"x" * 200_000, "line 1 of the file is no CSV: field larger than field limit"),
        (b"prediction_id,true_class,labelled_by\na,\xe9,ada\n", "not UTF-8 at byte 39"),
        (b"prediction_id,true_class,labelled_by\na,\0,ada\n", "without NUL characters"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_wrong_file_is_refused_with_what_to_change(text: bytes, said: str) -> None:
    with pytest.raises(ServiceError, match=said) as refused:
        parse_labels(text, CSV)
    assert refused.value.status == 400


def test_more_labels_than_a_request_may_bring_are_a_413() -> None:
    rows = b"a,crack,ada\n" * (MAX_LABELS + 1)
    with pytest.raises(ServiceError, match="at most 100000") as refused:
        parse_labels(b"prediction_id,true_class,labelled_by\n" + rows, CSV)
    assert refused.value.status == 413


def test_the_last_label_counts_and_all_are_kept(reviewed: Reviewed) -> None:
    reviewed.add(evidence("a", class_name="pit"))
    reviewed.label(label("a", "crack"))
    reviewed.label(label("a", "good", note="a shadow"))
    page = reviewed.labels()
    assert [(one["true_class"], one["last"]) for one in page["labels"]] == [
        ("crack", False),
        ("good", True),
    ]
    assert page["labels"][1]["note"] == "a shadow"
    assert page["labels"][1]["class_name"] == "pit"
    assert page["labels"][1]["labelled_at"] == 7.0


def test_labels_are_paged_in_the_order_in_which_they_were_given(reviewed: Reviewed) -> None:
    reviewed.label(*(label(f"p{number}") for number in range(5)))
    first = reviewed.labels(limit=2)
    rest = reviewed.labels(after=first["next"], limit=3)
    ids = [one["prediction_id"] for one in (*first["labels"], *rest["labels"])]
    assert ids == ["p0", "p1", "p2", "p3", "p4"]
    assert (first["count"], rest["count"], rest["next"]) == (2, 3, None)


def test_labels_of_unknown_predictions_are_kept_and_counted(reviewed: Reviewed) -> None:
    reviewed.add(evidence("a", class_name="crack"))
    found = reviewed.label(label("a"), label("b"), label("a", edge_device_id="line-9"))
    assert (found.labels, found.unknown) == (3, 2)
    assert reviewed.labels()["count"] == 3


def test_a_label_that_comes_before_its_picture_counts(reviewed: Reviewed) -> None:
    reviewed.label(label("a"))
    reviewed.add(evidence("a"), evidence("b"))
    assert reviewed.waiting() == ["b"]


def test_a_class_that_nobody_named_before_is_told(reviewed: Reviewed) -> None:
    reviewed.add(evidence("a", class_name="crack", scores={"crack": 0.6, "good": 0.4}))
    assert reviewed.label(label("a", "Good")).new_classes == ["Good"]
    assert reviewed.label(label("a", "Good"), label("a", "good")).new_classes == []


def test_an_id_of_two_devices_needs_the_device(reviewed: Reviewed) -> None:
    reviewed.add(evidence("a", edge_device_id="line-4"), evidence("a", edge_device_id="line-5"))
    with pytest.raises(ServiceError, match="several have a prediction a") as refused:
        reviewed.label(label("b"), label("a"))
    assert refused.value.details["field"] == "labels[1].edge_device_id"
    assert reviewed.labels()["count"] == 0  # nothing of the request is stored
    reviewed.label(label("a", edge_device_id="line-5"))
    assert [one["edge_device_id"] for one in reviewed.queue()["pictures"]] == ["line-4"]


def test_a_label_can_be_taken_back(reviewed: Reviewed) -> None:
    reviewed.add(evidence("a"))
    reviewed.label(label("a"))
    assert reviewed.waiting() == []
    reviewed.label(label("a", None))
    assert reviewed.waiting() == ["a"]
    assert [one["true_class"] for one in reviewed.labels()["labels"]] == ["crack", None]


def test_a_reported_defect_leaves_its_picture_in_the_queue(reviewed: Reviewed) -> None:
    reviewed.add(evidence("a"))
    reviewed.label(label("a", "crack", reported=True))
    assert reviewed.queue()["pictures"][0]["true_class"] == "crack"
    reviewed.label(label("a", "crack"))
    assert reviewed.waiting() == []


def test_the_queue_alternates_between_doubtful_pictures_and_the_slice(reviewed: Reviewed) -> None:
    doubtful = [
        evidence(f"d{number}", confidence=confidence, sampled=False)
        for number, confidence in enumerate((0.3, 0.1, 0.2, 0.4))
    ]
    slice_ = [evidence(f"s{number}", confidence=0.0, sampled=True) for number in range(2)]
    reviewed.add(*doubtful, *slice_)
    found = reviewed.waiting()
    assert found[0::2][:2] == ["d1", "d2"]
    assert set(found[1:4:2]) == {"s0", "s1"}
    assert found[4:] == ["d0", "d3"]


def test_the_slice_is_shown_in_an_order_that_depends_on_nothing_and_stays(
    reviewed: Reviewed,
) -> None:
    pictures = [evidence(f"{number:02}", confidence=number / 30) for number in range(30)]
    reviewed.add(*pictures)
    found = reviewed.waiting()
    assert found == reviewed.waiting()
    assert found not in (sorted(found), sorted(found)[::-1])
    reviewed.label(*(label(name) for name in found[:10]))
    reviewed.add(evidence("new"))
    assert [name for name in reviewed.waiting() if name != "new"] == found[10:]


def test_the_queue_comes_in_pages(reviewed: Reviewed) -> None:
    reviewed.add(*(evidence(f"{number}", sampled=number % 3 == 0) for number in range(10)))
    every = reviewed.waiting()
    pages, skip = [], 0
    while skip is not None:
        page = reviewed.queue(skip=skip, limit=4)
        assert page["waiting"] == 10
        pages.append([one["prediction_id"] for one in page["pictures"]])
        skip = page["next"]
    assert [len(page) for page in pages] == [4, 4, 2]
    assert [name for page in pages for name in page] == every


def test_the_queue_can_be_narrowed(reviewed: Reviewed) -> None:
    reviewed.add(
        evidence("a", model_version="4"),
        evidence("b", edge_device_id="line-9"),
        evidence("c", verdict="fail"),
        evidence("d", challenger=ChallengerAnswer("5", "good", 0.9)),
        evidence("e", challenger=ChallengerAnswer("5", "crack", 0.9)),
    )
    assert reviewed.waiting(Filters(model_version="4")) == ["a"]
    assert reviewed.waiting(Filters(edge_device_id="line-9")) == ["b"]
    assert reviewed.waiting(Filters(verdict="fail")) == ["c"]
    assert reviewed.waiting(Filters(differ=True)) == ["d"]
    assert reviewed.waiting(Filters(verdict="fail", differ=True)) == []
    assert reviewed.queue(Filters(verdict="fail"))["waiting"] == 1


def test_a_waiting_picture_says_what_was_said_of_it(reviewed: Reviewed) -> None:
    one = evidence("a", challenger=ChallengerAnswer("5", "good", 0.9))
    reviewed.add(one)
    (shown,) = reviewed.queue()["pictures"]
    assert shown["scores"] == one.scores
    assert shown["challenger"] == {"version": "5", "class_name": "good", "confidence": 0.9}
    assert shown["sampled"] is True
    assert shown["bytes"] == len(one.picture)


def steps(reviewed: Reviewed, *labels: Label) -> int:
    """Return how many steps of SQLite's machine, in hundreds, it takes to store labels."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    def add(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(count, 100)
        add_labels(connection, labels, at=7.0)

    reviewed.write(add)
    return taken


@pytest.mark.case(21)
@pytest.mark.parametrize(
    "make",
    [lambda _: label("a"), lambda number: label("a", f"class {number}", reported=True)],
    ids=["of one picture", "of a class each"],
)
def test_a_label_costs_no_more_where_there_are_many(
    reviewed: Reviewed, make: Callable[[int], Label]
) -> None:
    """A file of labels that are all of one picture, or each of another class: as fast as any."""
    reviewed.add(evidence("a"), *(evidence(class_name=f"class {n}") for n in range(300)))
    first = steps(reviewed, *(make(number) for number in range(300)))
    later = [steps(reviewed, *(make(-number) for number in range(300))) for _ in range(3)]
    assert later[-1] < 2 * first
