"""The services under test: those that run, or both started here with the demo model."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from bentos.health.probes import HEALTH_PATH, READY_PATH
from examples.demo_model import ensure_model
from examples.stack import Stack
from loadtests.kinds import IMAGE, LOG, PREDICT, RequestKind
from loadtests.payloads import image_files, log_bodies, prediction_bodies
from loadtests.plan import Subject, subjects
from loadtests.settings import LoadTestSettings
from local.process import StepError

_LOOPBACK = ("127.0.0.1", "localhost")


class BrokenRun(Exception):  # noqa: N818 - the outcome of a run, not an error of the program
    """There can be no verdict; the message says why and what to do."""


@contextmanager
def services_under_test(
    settings: LoadTestSettings, report: Callable[[str], None]
) -> Iterator[None]:
    """Make sure that every service answers and is ready; stop those that were started here.

    Raises BrokenRun where they do not come to it.
    """
    wanted = subjects(settings)
    silent = [subject for subject in wanted if not _answers(subject)]
    if not silent:
        for subject in wanted:
            report(f"testing the {subject.name} that runs at {subject.url}")
        _check(settings)
        yield
        return
    if len(silent) < len(wanted):
        names = ", ".join(f"{subject.name} at {subject.url}" for subject in silent)
        raise BrokenRun(f"does not answer: {names}; start it, or leave it out with `none`")
    with _started(settings, report):
        _check(settings)
        yield


@contextmanager
def _started(settings: LoadTestSettings, report: Callable[[str], None]) -> Iterator[None]:
    for subject in subjects(settings):
        if urlsplit(subject.url).hostname not in _LOOPBACK:
            raise BrokenRun(f"the {subject.name} at {subject.url} does not answer")
    report("no service answers: starting both")
    with tempfile.TemporaryDirectory(prefix="loadtest-") as scratch:
        os.environ.setdefault("LOG_LEVEL", "WARNING")
        os.environ["DATABASE_PATH"] = str(Path(scratch) / "predictions.db")
        os.environ["OUTBOX_PATH"] = str(Path(scratch) / "outbox")
        os.environ["INFERENCE_PORT"] = str(urlsplit(settings.inference_url).port or 80)
        if settings.logging_url:
            os.environ["LOGGING_PORT"] = str(urlsplit(settings.logging_url).port or 80)
        if settings.logging_token is not None:
            os.environ["LOGGING_TOKEN"] = settings.logging_token.get_secret_value()
        try:
            ensure_model(report)
            with Stack(log_folder=settings.reports / "logs") as stack:
                stack.start()
                stack.wait_until_ready(report)
                yield
        except StepError as error:
            raise BrokenRun(str(error)) from error


def _answers(subject: Subject) -> bool:
    try:
        httpx.get(subject.url + HEALTH_PATH, timeout=5.0, trust_env=False)
    except httpx.TransportError:
        return False
    return True


def _check(settings: LoadTestSettings) -> None:
    """Send one request of each kind: a wrong size or token must not pass for a slow service."""
    for subject in subjects(settings):
        for base_url in (subject.probe_url, subject.url):
            try:
                answer = httpx.get(base_url + READY_PATH, timeout=5.0, trust_env=False)
            except httpx.TransportError as error:
                raise BrokenRun(
                    f"the {subject.name} at {base_url} does not answer: {error}"
                ) from None
            if answer.status_code != 200:
                raise BrokenRun(f"the {subject.name} is not ready: {answer.text[:300]}")
    token = settings.logging_token
    bearer = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    attempts: list[tuple[RequestKind, str, bytes]] = []
    if settings.predict_weight:
        body = prediction_bodies(settings.input_size, count=1)[0]
        attempts.append((PREDICT, settings.inference_url, body))
    if settings.image_weight:
        attempts.append((IMAGE, settings.inference_url, image_files(1)[0]))
    if settings.logging_url and settings.log_weight:
        body = next(log_bodies(settings.log_batch, device="load-test-check"))
        attempts.append((LOG, settings.logging_url, body))
    for kind, url, body in attempts:
        headers = {"Content-Type": kind.content_type, **bearer}
        answer = httpx.post(
            url + kind.path,
            content=body,
            headers=headers,
            timeout=settings.request_timeout_seconds,
            trust_env=False,
        )
        if answer.status_code != 200 or kind.proof not in answer.content:
            raise BrokenRun(
                f"{kind.title} answers {answer.status_code}: {answer.text[:300]}; "
                "see LOADTEST_INPUT_SIZE, LOADTEST_LOGGING_TOKEN and the weights"
            )
