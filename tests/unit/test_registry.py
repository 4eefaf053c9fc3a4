"""The registry: versions, what is missing, connections that drop, checks that hang, secrets."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from bentos.inference.channel import RegistryChecked
from bentos.inference.model.loading import LoadOptions, load
from bentos.inference.model.registry import (
    Registry,
    RegistryUnavailable,
    RegistryWatch,
    Resolved,
)
from bentos.inference.model.spec import ModelIdentity
from tests.support.http_server import Answer, HttpServer, Request
from tests.support.models import ALIAS, COLOURS, ModelStore, point_alias, remove_alias
from tests.support.servers import wait_until

# Its models are made with torch and registered with MLflow, which takes seconds.
pytestmark = pytest.mark.slow


def registry_of(store: ModelStore, name: str = COLOURS, *, stage: str = ALIAS) -> Registry:
    return Registry(tracking_uri=store.tracking_uri, name=name, stage=stage)


def number(registry: Registry) -> str | None:
    found = registry.resolve().identity
    return found.version if found else None


def test_an_alias_resolves_to_its_version(model_store: ModelStore, tmp_path: Path) -> None:
    store = model_store.copy(tmp_path)
    registry = registry_of(store)
    assert number(registry) == "1"
    point_alias(store.tracking_uri, COLOURS, "2")
    assert number(registry) == "2"
    remove_alias(store.tracking_uri, COLOURS)
    assert number(registry) is None


def test_an_old_style_stage_resolves_to_its_newest_version(
    model_store: ModelStore, tmp_path: Path
) -> None:
    store = model_store.copy(tmp_path)
    registry = registry_of(store, stage="staging")
    assert number(registry) is None
    client = MlflowClient(store.tracking_uri, store.tracking_uri)
    for version in ("1", "2"):
        client.transition_model_version_stage(COLOURS, version, "Staging")
    assert number(registry) == "2"


@pytest.mark.case(32)
def test_a_number_is_that_version_and_latest_is_the_newest(model_store: ModelStore) -> None:
    """MODEL_STAGE=3 and MODEL_STAGE=latest: served, as models:/name/3 and /latest are by MLflow."""
    assert number(registry_of(model_store, stage="2")) == "2"
    assert number(registry_of(model_store, stage="latest")) == "3"
    assert number(registry_of(model_store, stage="99")) is None


@pytest.mark.case(32)
def test_what_is_missing_is_said_beside_what_there_is(model_store: ModelStore) -> None:
    """MODEL_STAGE=Production with an alias production, a misspelt MODEL_NAME: both named."""
    missing = registry_of(model_store, stage="Production").resolve().missing
    assert "no alias, stage or version 'Production'" in missing
    assert "aliases are production (version 1)" in missing
    assert "versions 3, 2, 1" in missing
    missing = registry_of(model_store, "colors").resolve().missing
    assert missing.startswith("there is no model 'colors'; the registry has ")
    assert COLOURS in missing
    assert "no model" in registry_of(model_store, "it's odd").resolve().missing


@pytest.mark.case(29)
def test_a_version_made_anew_under_the_same_number_is_another_one(
    model_store: ModelStore, tmp_path: Path
) -> None:
    """The model is deleted and registered again: version 1 again, and not the same."""
    store = model_store.copy(tmp_path)
    client = MlflowClient(store.tracking_uri, store.tracking_uri)
    registry = registry_of(store)
    before = registry.resolve().identity
    source = client.get_model_version(COLOURS, "1").source
    client.delete_registered_model(COLOURS)
    client.create_registered_model(COLOURS)
    client.create_model_version(COLOURS, source)
    point_alias(store.tracking_uri, COLOURS, "1")
    after = registry.resolve().identity
    assert before is not None
    assert after is not None
    assert before.version == after.version == "1"
    assert before != after


def test_a_registry_that_is_not_there_is_told_from_one_without_the_model(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    for uri in ("http://127.0.0.1:9", f"sqlite:///{blocked}/mlflow.db", "nonsense://x"):
        registry = Registry(tracking_uri=uri, name=COLOURS, stage=ALIAS)
        with pytest.raises(RegistryUnavailable):
            registry.resolve()


def test_a_connection_that_fails_is_told_in_a_line() -> None:
    registry = Registry(tracking_uri="http://127.0.0.1:9", name=COLOURS, stage=ALIAS)
    with pytest.raises(RegistryUnavailable) as failed:
        registry.resolve()
    assert str(failed.value) == "http://127.0.0.1:9: Connection refused"


def test_a_version_whose_files_are_gone_cannot_be_had(
    model_store: ModelStore, tmp_path: Path
) -> None:
    store = model_store.copy_to_serve(tmp_path)  # its artifacts are had from a server only
    for one, version in ((store, "1"), (model_store, "99")):
        with pytest.raises(RegistryUnavailable):
            load(registry_of(one), ModelIdentity(COLOURS, ALIAS, version), LoadOptions())


class Server:
    """An MLflow server that answers as a test says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[], Answer | None] = lambda: VERSION
        self.http = HttpServer(self._answer)
        self.address = f"127.0.0.1:{self.http.port}"

    def _answer(self, request: Request) -> Answer | None:
        self.asked.append(request.path)
        return self.answer()


_CONTENT = {"model_version": {"name": COLOURS, "version": "7", "creation_timestamp": 5}}
VERSION = Answer(json.dumps(_CONTENT).encode())


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with made.http:
        yield made


@pytest.mark.case(47)
def test_a_connection_that_drops_as_it_is_used_again_is_tried_once_more(server: Server) -> None:
    """MLflow closes an idle connection just as it is used: asked once more at once, not down."""

    server.answer = lambda: None if len(server.asked) % 2 else VERSION
    registry = Registry(tracking_uri=f"http://{server.address}", name=COLOURS, stage=ALIAS)
    for _ in range(3):
        assert number(registry) == "7"
    assert len(server.asked) == 6


@pytest.mark.case(35)
def test_no_secret_stands_in_what_the_registry_says(server: Server) -> None:
    """MLFLOW_TRACKING_URI with a password, and MLflow fails: neither is in the message."""
    server.answer = lambda: Answer(b'{"message": "http://bob:secretpw@x"}', 500)
    for address in (server.address, "127.0.0.1:9"):
        uri = f"http://bob:secretpw@{address}"
        registry = Registry(tracking_uri=uri, name=COLOURS, stage=ALIAS)
        for ask in (registry.resolve, partial(registry.tags, "1")):
            with pytest.raises(RegistryUnavailable) as failed:
                ask()
            assert "secretpw" not in str(failed.value)
            assert "bob" not in str(failed.value)


THIRD = ModelIdentity("model", ALIAS, "3")


class Slow(Registry):
    """A registry whose answers take as long as a test says."""

    def __init__(self) -> None:
        super().__init__(tracking_uri="sqlite:///none.db", name="model", stage=ALIAS)
        self.asked = 0
        self.answers = threading.Event()

    def connect(self) -> Any:
        return None

    def resolve(self) -> Resolved:
        self.asked += 1
        self.answers.wait(30)
        return Resolved(THIRD)


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.answers.set()


@pytest.mark.case(30)
def test_a_check_that_hangs_counts_as_failed_and_others_follow_it(slow: Slow) -> None:
    """MLflow takes connections and never answers: inaccessible in time, and seen once it does."""
    checks: list[RegistryChecked] = []
    versions: list[ModelIdentity] = []
    watch = RegistryWatch(
        slow,
        poll_seconds=0.01,
        timeout_seconds=0.02,
        on_check=checks.append,
        on_version=versions.append,
    )
    watch.start()
    wait_until(lambda: len(checks) > 10, "checks go on")
    assert not any(check.accessible for check in checks)
    assert checks[0].note == "no answer within 0.02 seconds"
    assert slow.asked <= 3  # of those that hang, a few at most
    slow.answers.set()
    wait_until(lambda: checks[-1].accessible, "it is seen")
    wait_until(lambda: versions, "the version is named")
    watch.stop()
    assert versions[0] == THIRD


@pytest.mark.case(30)
def test_a_download_may_take_longer_than_a_check(server: Server, tmp_path: Path) -> None:
    """The first byte of an artifact comes after the time-out of checks: it is waited for."""

    def late() -> Answer:
        time.sleep(1.5)
        return VERSION

    server.answer = late
    registry = Registry(tracking_uri=f"http://{server.address}", name=COLOURS, stage=ALIAS)
    checks: list[RegistryChecked] = []
    watch = RegistryWatch(
        registry,
        poll_seconds=0.01,
        timeout_seconds=0.1,
        on_check=checks.append,
        on_version=lambda version: None,
    )
    watch.start()
    wait_until(lambda: checks, "the check's end")
    watch.stop()
    assert not checks[0].accessible
    assert registry.tags("7") == {}
