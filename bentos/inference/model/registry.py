"""The MLflow registry: which version an alias or a stage points to, its files, and the watch on it.

Everything here may block for as long as the network does; only background threads call it.
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bentos.inference.channel import RegistryChecked
from bentos.inference.model.archive import PICKLE_SWITCH
from bentos.inference.model.spec import ModelIdentity
from bentos.process.logs import event, get_logger
from bentos.process.secrets import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"})
_MOST_SHOWN = 20
_MOST_VERSIONS = 1_000
# A check that hangs is left alone; another one is started beside it after this many time-outs.
_PATIENCE = 3
_MOST_HANGING = 3

_logger = get_logger("registry")
T = TypeVar("T")


class RegistryUnavailable(Exception):  # noqa: N818 - a state of the registry
    """The registry gave no answer, or none that can be understood."""


@dataclass(frozen=True)
class Resolved:
    """What the registry says: the version to serve, or why there is none and what there is."""

    identity: ModelIdentity | None
    missing: str = ""


class Registry:
    """One model's entry in a registry, by alias, old-style stage or version number."""

    def __init__(
        self, *, tracking_uri: str, name: str, stage: str, download_timeout_seconds: float = 60.0
    ) -> None:
        self._tracking_uri = tracking_uri
        self._name = name
        self._stage = stage
        # Longest wait for the next byte. Checks are bounded by the watch; a store may take its
        # time before it sends the first byte of a large file.
        seconds = str(max(1, round(download_timeout_seconds)))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", seconds)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        # MLflow allows pickles unless told otherwise, and a pickle runs code when it loads.
        os.environ.setdefault(PICKLE_SWITCH, "false")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        self._client: MlflowClient | None = None

    def connect(self) -> "MlflowClient":
        """Import MLflow, which takes seconds, and return its client; nothing is asked yet."""
        if self._client is None:
            import mlflow

            prefix = "sqlite:///"
            if self._tracking_uri.startswith(prefix):
                path = Path(self._tracking_uri.removeprefix(prefix))
                path.parent.mkdir(parents=True, exist_ok=True)
            mlflow.set_tracking_uri(self._tracking_uri)
            mlflow.set_registry_uri(self._tracking_uri)
            self._client = mlflow.MlflowClient(self._tracking_uri, self._tracking_uri)
        return self._client

    def resolve(self) -> Resolved:
        """Return the version that the alias, else the stage, else the number stands for.

        Raises RegistryUnavailable where the registry cannot be asked.
        """
        return self._asked(self._resolve)

    def tags(self, version: str) -> dict[str, str]:
        """Return the tags of a version.

        Raises RegistryUnavailable where the registry cannot be asked.
        """
        found = self._asked(lambda client: client.get_model_version(self._name, version))
        return dict(found.tags or {})

    @contextmanager
    def downloaded(self, version: str) -> Iterator[Path]:
        """Give the files of a version in a folder that is removed afterwards.

        Raises RegistryUnavailable where they cannot be had.
        """
        with tempfile.TemporaryDirectory(prefix="model-") as folder:

            def download(_: "MlflowClient") -> str:
                from mlflow.artifacts import download_artifacts

                return str(
                    download_artifacts(
                        f"models:/{self._name}/{version}",
                        dst_path=folder,
                        tracking_uri=self._tracking_uri,
                    )
                )

            try:
                path = self._asked(download)
            except RegistryUnavailable as error:
                raise RegistryUnavailable(
                    f"version {version} cannot be downloaded: {error}"
                ) from error
            yield Path(path)

    def _asked(self, ask: "Callable[[MlflowClient], T]") -> T:
        """Ask, and once more at once where that fails.

        A server closes connections that were idle, `mlflow server` after 5 s, and may do so just
        as the next request is sent.
        """
        for last in (False, True):
            try:
                return ask(self.connect())
            except Exception as error:
                if last:
                    raise RegistryUnavailable(self._why(error)) from error
        raise AssertionError  # the second attempt returned or raised

    def _why(self, error: Exception) -> str:
        """Return why the registry gave no answer.

        MLflow wraps a failed connection in three exceptions, whose text is the URL over and over.
        """
        innermost: BaseException = error
        while (inner := innermost.__cause__ or innermost.__context__) is not None:
            innermost = inner
        if innermost is not error and isinstance(innermost, OSError) and innermost.strerror:
            return redact(f"{self._tracking_uri}: {innermost.strerror}")
        return _first_line(error)

    def _resolve(self, client: "MlflowClient") -> Resolved:
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_model_version_by_alias(self._name, self._stage)
            return Resolved(self._identity(found))
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
        quote = '"' if "'" in self._name else "'"
        filters = f"name = {quote}{self._name}{quote}"
        versions = list(client.search_model_versions(filters, max_results=_MOST_VERSIONS))
        stage = self._stage.lower()
        of_stage = [one for one in versions if (one.current_stage or "").lower() == stage]
        of_stage = of_stage or [one for one in versions if str(one.version) == self._stage]
        if of_stage:
            return Resolved(self._identity(max(of_stage, key=lambda one: int(one.version))))
        return Resolved(None, self._missing(client, versions))

    def _identity(self, found: Any) -> ModelIdentity:
        made = f"{found.creation_timestamp} {found.run_id or found.source or ''}"
        # The one tag that is written while a version is served.
        thresholds = (found.tags or {}).get("thresholds", "")
        if thresholds:
            made += f" {thresholds}"
        return ModelIdentity(self._name, self._stage, str(found.version), made)

    def _missing(self, client: "MlflowClient", versions: list[Any]) -> str:
        """Say what was looked for and what there is instead."""
        if not versions:
            models = client.search_registered_models(max_results=_MOST_SHOWN + 1)
            names = [model.name for model in models]
            if self._name not in names:
                return f"there is no model {self._name!r}; the registry has {_some(names)}"
            return f"the model {self._name!r} has no version yet"
        aliases = client.get_registered_model(self._name).aliases or {}
        stages = {one.current_stage for one in versions} - {None, "", "None"}
        numbers = sorted((int(one.version) for one in versions), reverse=True)
        return (
            f"the model {self._name!r} has no alias, stage or version {self._stage!r}; its aliases "
            f"are {_some(f'{alias} (version {number})' for alias, number in aliases.items())}, its "
            f"stages {_some(sorted(stages))}, its versions {_some(map(str, numbers))}"
        )


class RegistryWatch:
    """A thread that asks the registry every few seconds and says what it learnt.

    `on_check` gets the end of each check, `on_version` every version that the registry names, the
    same one again and again; both are called on the watch's own thread. A check that takes longer
    than `timeout_seconds` counts as failed and is left to end by itself.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        poll_seconds: float,
        timeout_seconds: float,
        on_check: Callable[[RegistryChecked], None],
        on_version: Callable[[ModelIdentity], None],
    ) -> None:
        self._registry = registry
        self._poll_seconds = poll_seconds
        self._timeout_seconds = timeout_seconds
        self._on_check = on_check
        self._on_version = on_version
        self._stop = threading.Event()
        self._said = ""
        self._threads: list[threading.Thread] = []
        self._answer: Future[Resolved] = Future()
        self._answer.cancel()  # none was asked for yet
        self._asked_at = 0.0
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; a check under way is left to end by itself."""
        self._stop.set()

    def _run(self) -> None:
        try:
            self._registry.connect()
        except Exception as error:
            self._say(logging.ERROR, f"MLflow cannot be used: {_first_line(error)}")
        while not self._stop.is_set():
            self._check()
            self._stop.wait(self._poll_seconds)

    def _check(self) -> None:
        try:
            found = self._resolved()
        except RegistryUnavailable as error:
            self._on_check(RegistryChecked(accessible=False, note=str(error)))
            self._say(logging.WARNING, f"registry not accessible: {error}")
            return
        number = found.identity.version if found.identity else None
        self._on_check(RegistryChecked(accessible=True, version=number, note=found.missing))
        if found.identity is None:
            self._say(logging.WARNING, found.missing)
        else:
            self._say(logging.INFO, f"the registry points to version {number}")
            self._on_version(found.identity)

    def _resolved(self) -> Resolved:
        """Return what the registry says within the time-out, asked on a thread that may hang."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        age = time.monotonic() - self._asked_at
        if self._answer.done() or (
            age > _PATIENCE * self._timeout_seconds and len(self._threads) < _MOST_HANGING
        ):
            self._ask()
        try:
            return self._answer.result(self._timeout_seconds)
        except TimeoutError:
            raise RegistryUnavailable(
                f"no answer within {self._timeout_seconds:g} seconds"
            ) from None

    def _ask(self) -> None:
        answer = self._answer = Future()

        def ask() -> None:
            try:
                answer.set_result(self._registry.resolve())
            except BaseException as error:
                answer.set_exception(error)

        self._asked_at = time.monotonic()
        self._threads.append(threading.Thread(target=ask, name="registry-check", daemon=True))
        self._threads[-1].start()

    def _say(self, level: int, message: str) -> None:
        if message != self._said:
            self._said = message
            event(_logger, level, message)


def _some(names: Any) -> str:
    shown = list(names)
    if not shown:
        return "none"
    more = f" and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
    return ", ".join(shown[:_MOST_SHOWN]) + more


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return redact(f"{type(error).__name__}: {text[0][:300] if text else ''}")
