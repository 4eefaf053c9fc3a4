"""A bounded share of `make fuzz`: parsers and services take damaged input and say what is wrong."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.__main__ import services
from tests.fuzz.http import Findings, send_by_document, send_damaged
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS
from tests.support.models import ModelStore
from tests.support.servers import Server

INPUTS = 400
REQUESTS = 1_500
BY_DOCUMENT = 80


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_returns_or_refuses_whatever_it_is_given(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    chance = random.Random(1)
    for content in (*seeds, *(mutated(seeds, chance) for _ in range(INPUTS))):
        target.check(content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_what_clients_send(name: str) -> None:
    target = TARGETS[name]
    for content in target.seeds():
        if content != b'{"data": []}' and name != "numbers":
            target.parse(content)


@pytest.fixture(scope="module")
def running(
    model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Server]]:
    directory: Path = tmp_path_factory.mktemp("fuzz")
    with services(directory, model_store.copy(directory).tracking_uri) as both:
        yield both


@pytest.mark.slow
@pytest.mark.parametrize("service", ["logging", "inference"])
def test_damaged_requests_get_a_4xx_in_the_one_shape(
    service: str, running: dict[str, Server]
) -> None:
    findings = send_damaged(running[service], service, count=REQUESTS, seed=1)
    assert findings.wrong == []
    assert findings.statuses.total() > REQUESTS / 2
    assert running[service].get("/ready").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("service", ["logging", "inference"])
def test_requests_made_of_the_api_document_get_no_5xx(
    service: str, running: dict[str, Server]
) -> None:
    findings: Findings = send_by_document(running[service], service, count=BY_DOCUMENT, seed=1)
    assert findings.wrong == []
    assert findings.statuses.total() > 0
