"""Which pictures are kept, which of them are the random sample, and how they are sent."""

from typing import Any

import msgspec
import pytest

from bentos.evidence import ChallengerAnswer, Evidence, EvidenceBatch, Kept, decide, media_type_of
from tests.support.evidence import evidence

IDS = [f"{number:032x}" for number in range(20_000)]


def kept(prediction_id: str, verdict: str, *, differs: bool = False) -> Kept:
    return decide(prediction_id, verdict, pass_share=0.02, sample_share=0.2, differs=differs)


@pytest.mark.parametrize(("verdict", "share"), [("pass", 0.02), ("review", 0.2), ("fail", 0.2)])
def test_the_slice_is_a_random_share_of_each_verdict(verdict: str, share: float) -> None:
    decisions = [kept(one, verdict) for one in IDS]
    sampled = sum(decision.sampled for decision in decisions)
    # Five standard deviations of a binomial count.
    assert abs(sampled - share * len(IDS)) < 5 * (share * (1 - share) * len(IDS)) ** 0.5
    assert {decision.sample_probability for decision in decisions} == {share}


def test_every_picture_that_did_not_pass_is_kept() -> None:
    for verdict in ("review", "fail"):
        assert all(kept(one, verdict).kept for one in IDS[:500])
        assert kept(IDS[0], verdict).keep_probability == 1.0


def test_of_those_that_passed_only_the_slice_is_kept() -> None:
    decisions = [kept(one, "pass") for one in IDS]
    assert all(decision.kept == decision.sampled for decision in decisions)
    assert {decision.keep_probability for decision in decisions} == {0.02}


def test_a_challenger_that_differs_keeps_a_picture_and_changes_nothing_else() -> None:
    for one in IDS[:2_000]:
        without, differing = kept(one, "pass"), kept(one, "pass", differs=True)
        assert differing == Kept(
            kept=True,
            sampled=without.sampled,
            sample_probability=0.02,
            keep_probability=0.02,
        )


def test_a_decision_made_again_is_the_same() -> None:
    assert [kept(one, "review") for one in IDS[:100]] == [kept(one, "review") for one in IDS[:100]]


def test_a_share_of_one_keeps_everything() -> None:
    assert all(
        decide(one, "pass", pass_share=1.0, sample_share=1.0, differs=False).sampled
        for one in IDS[:2_000]
    )


def test_a_message_arrives_as_it_was_sent() -> None:
    sent = EvidenceBatch(
        [evidence(), evidence(challenger=ChallengerAnswer("4", "scratch", 0.7), verdict="pass")]
    )
    assert msgspec.json.decode(msgspec.json.encode(sent), type=EvidenceBatch) == sent


@pytest.mark.parametrize(
    "change",
    [
        {"sample_probability": 0.0},
        {"keep_probability": 1.5},
        {"verdict": "maybe"},
        {"prediction_id": ""},
        {"scores": {f"class-{number}": 0.01 for number in range(21)}},
        {"confidence": 1.1},
        {"timestamp": -1.0},
    ],
)
def test_a_message_out_of_its_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(evidence(**change)), type=Evidence)


@pytest.mark.parametrize(
    ("start", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"BM\x00\x00", "image/bmp"),
        (b"GIF89a", None),
        (b"<svg", None),
        (b"", None),
    ],
)
def test_the_first_bytes_say_what_a_picture_is(start: bytes, media_type: str | None) -> None:
    assert media_type_of(start + b"rest" if start else b"") == media_type
