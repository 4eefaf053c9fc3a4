"""Break the running services and see the alert pend, fire, reach its receiver and end.

Both services, MLflow, Prometheus and Alertmanager are real and run once for the module; each test
finds everything in order, breaks one thing, and leaves everything in order.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from bentos.inference.state import PREDICT_PATH
from local import fetch
from monitoring.prometheus.source import ALERTS
from monitoring.prometheus.source.watching import WATCHDOG
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE
from tests.monitoring.live_alerts import HOLD_SECONDS, Notification, alerting, shortened
from tests.support.disks import immutable
from tests.support.inference import start_inference
from tests.support.logging_store import locked_by_another_process
from tests.support.mlflow_server import MlflowServer
from tests.support.models import FRAGILE, FRAGILE_OK, ModelStore, point_alias, remove_alias
from tests.support.repeating import repeating
from tests.support.servers import Server, free_port, start_service, wait_until

pytestmark = pytest.mark.slow

LOGGING_TARGET = "bentos.logging.service:LoggingService"
VERSION = "1"


class World:
    """What runs; either service may be killed and started again."""

    def __init__(self, directory: Path, store: ModelStore, stack: ExitStack) -> None:
        self.directory = directory
        self.database = directory / "predictions.db"
        self.mlflow = stack.enter_context(
            MlflowServer(store.copy_to_serve(directory / "mlflow"), store.artifacts)
        )
        self.mlflow.start()
        remove_alias(self.mlflow.tracking_uri, FRAGILE)
        self._stack = stack
        self._logging_port = free_port()
        self._probe_ports = {INFERENCE_SERVICE: free_port(), LOGGING_SERVICE: free_port()}
        self.logging = self.start_logging()
        self.inference = self.start_inference()
        targets = {job: f"127.0.0.1:{port}" for job, port in self._probe_ports.items()}
        self.alerting = stack.enter_context(alerting(directory, targets))
        self.alerting.wait_scraped(*targets)

    def start_inference(self) -> Server:
        """Start the inference service, which has to find its model at MLflow's server."""
        self.inference = self._stack.enter_context(
            start_inference(
                self.directory,
                self.mlflow.tracking_uri,
                model=FRAGILE,
                env={
                    "PROBE_PORT": str(self._probe_ports[INFERENCE_SERVICE]),
                    "LOGGING_URL": f"http://127.0.0.1:{self._logging_port}",
                    "ERROR_WINDOW_SECONDS": "5",
                    "REQUEST_TIMEOUT_SECONDS": "0.5",
                },
            )
        )
        return self.inference

    def start_logging(self) -> Server:
        """Start the logging service on its database."""
        self.logging = self._stack.enter_context(
            start_service(
                LOGGING_TARGET,
                self.directory,
                port=self._logging_port,
                env={
                    "PROBE_PORT": str(self._probe_ports[LOGGING_SERVICE]),
                    "DATABASE_PATH": str(self.database),
                    "BUSY_TIMEOUT_SECONDS": "0.2",
                },
            )
        )
        return self.logging

    @property
    def notified(self) -> int:
        """How many notifications there have been."""
        return len(self.alerting.receivers.notifications)

    def see_firing(self, alert: str, *, after: int, **labels: str) -> Notification:
        """Wait until the alert was pending, fires and is notified; return the notification.

        `labels` distinguish it from one that fires for what an earlier test broke.
        """
        self.alerting.wait_firing(alert)
        assert self.alerting.was_pending(alert), f"{alert} fired without waiting"
        notification = self.alerting.receivers.wait_for(alert, "firing", after=after, **labels)
        receivers = {"critical": "page", "warning": "ticket"}
        assert notification.receiver == receivers[ALERTS[alert].severity]
        assert ALERTS[alert].links.items() <= notification.annotations.items()
        return notification

    def see_resolved(self, alert: str, *, after: int, **labels: str) -> None:
        """Wait until the alert has ended and its receiver was notified."""
        self.alerting.receivers.wait_for(alert, "resolved", after=after, **labels)
        self.alerting.wait_quiet(alert)

    def see_suppressed(self, alert: str, *, after: int) -> None:
        """Wait until the alert fires, and see that no receiver is notified while its cause does.

        At the end the cause may be gone before its symptom, which is then notified, and rightly.
        """
        self.alerting.wait_firing(alert)
        # Longer than a notification takes.
        self.alerting.wait_evaluations(2 * HOLD_SECONDS)
        notified = {one.alert for one in self.alerting.receivers.notifications[after:]}
        assert alert not in notified


@pytest.fixture(scope="module")
def world(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything, with a registry whose alias points to no version yet."""
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("live"), model_store, stack)


def test_a_model_that_is_not_loaded_pages_and_what_follows_from_it_does_not(world: World) -> None:
    notification = world.see_firing("InferenceModelNotLoaded", after=0)
    assert notification.labels["model"] == FRAGILE
    assert notification.labels["service"] == INFERENCE_SERVICE
    world.see_suppressed("InferenceNotReady", after=0)

    point_alias(world.mlflow.tracking_uri, FRAGILE, VERSION)
    world.inference.wait_until_ready()
    world.see_resolved("InferenceModelNotLoaded", after=0)


def test_nothing_fires_while_everything_is_in_order(world: World) -> None:
    answer = world.inference.post(PREDICT_PATH, json={"data": list(FRAGILE_OK)})
    assert answer.is_success
    wait_until(lambda: world.alerting.firing() == {WATCHDOG}, "what fired before has ended")
    # Twice as many as an alert waits for before it fires.
    world.alerting.wait_evaluations(2 * HOLD_SECONDS)
    assert world.alerting.firing() == {WATCHDOG}


@pytest.mark.case(45)
def test_the_watchdog_reaches_its_receiver(world: World) -> None:
    """Prometheus and Alertmanager work: the receiver outside is notified of the Watchdog."""
    notification = world.alerting.receivers.wait_for(WATCHDOG, "firing")
    assert notification.receiver == "watchdog"


def test_mlflow_that_is_away_pages_until_it_is_back(world: World) -> None:
    before = world.notified
    world.mlflow.stop()
    world.inference.wait_for_reason("mlflow_not_accessible")
    notification = world.see_firing("InferenceMlflowUnreachable", after=before)
    assert "cannot reach MLflow" in notification.annotations["summary"]

    world.mlflow.start()
    world.inference.wait_until_ready()
    world.see_resolved("InferenceMlflowUnreachable", after=before)


def clients(server: Server) -> AbstractContextManager[None]:
    """Return four clients that send predictions."""

    def predict() -> None:
        fetch.post(server.url + PREDICT_PATH, json={"data": list(FRAGILE_OK)}, timeout=10.0)

    return repeating(*[predict] * 4, pause=0.02)


@contextmanager
def stopped_model(server: Server) -> Iterator[None]:
    """Stop the model process meanwhile: no request is answered in time."""
    (process,) = (
        one
        for one in psutil.Process(server.pid).children(recursive=True)
        if any(part.startswith("bentos.inference.model") for part in one.cmdline())
    )
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def test_failing_predictions_page_until_they_succeed(world: World) -> None:
    before = world.notified
    with clients(world.inference), stopped_model(world.inference):
        notification = world.see_firing("InferenceHighErrorRate", after=before)
    assert "% of requests to fragile@production fail" in notification.annotations["summary"]

    world.inference.wait_until_ready()
    world.see_resolved("InferenceHighErrorRate", after=before)


def test_a_locked_database_pages_and_tickets_until_it_is_free(world: World) -> None:
    before = world.notified
    with locked_by_another_process(world.database):
        world.logging.wait_for_reason("database_not_accessible")
        notification = world.see_firing("LoggingDatabaseNotAccessible", after=before)
        assert notification.labels["service"] == LOGGING_SERVICE
        world.alerting.wait_firing("LoggingDatabaseBusy")
        world.see_suppressed("LoggingNotReady", after=before)
    world.logging.wait_until_ready()

    world.see_resolved("LoggingDatabaseNotAccessible", after=before)


def test_a_read_only_database_pages_until_it_is_writable(world: World) -> None:
    before = world.notified
    with immutable(world.database, world.database.with_name(f"{world.database.name}-wal")):
        world.logging.wait_for_reason("database_not_accessible")
        world.see_firing("LoggingDatabaseNotAccessible", after=before)
        world.alerting.wait_firing("LoggingStoreErrors")
    world.logging.wait_until_ready()

    world.see_resolved("LoggingDatabaseNotAccessible", after=before)


def test_a_database_that_was_deleted_pages_although_a_new_one_takes_its_place(world: World) -> None:
    before = world.notified
    for path in world.directory.glob(f"{world.database.name}*"):
        path.unlink()
    notification = world.see_firing("LoggingStoreErrors", after=before, reason="missing")
    assert "fails: missing" in notification.annotations["summary"]

    world.logging.wait_until_ready()
    world.see_resolved("LoggingStoreErrors", after=before, reason="missing")


def test_a_killed_service_is_one_page_until_it_runs_again(world: World) -> None:
    before = world.notified
    world.logging.kill()
    notification = world.see_firing("LoggingServiceDown", after=before)
    assert notification.labels["job"] == LOGGING_SERVICE
    world.see_suppressed("ServingTargetDown", after=before)

    world.start_logging().wait_until_ready()
    world.see_resolved("LoggingServiceDown", after=before)


def test_the_live_rules_are_the_shipped_ones_but_for_their_times() -> None:
    rule = {
        "alert": "X",
        "expr": 'increase(a{b="[1h]"}[5m]) > 1 unless abs(time() - b) < 300 or c offset 30m',
        "for": "15m",
        "labels": {"severity": "critical"},
    }
    (group,) = shortened({"groups": [{"name": "g", "rules": [rule]}]})["groups"]
    assert group["rules"] == [
        {
            **rule,
            "expr": 'increase(a{b="[1h]"}[10s]) > 1 unless abs(time() - b) < 10 or c offset 1m',
            "for": "2s",
        }
    ]
