"""Follows the registry: is it there, and which version is to be served."""

import logging
import threading
from collections.abc import Callable

from bentos.inference.model_process.registry import Registry, RegistryUnavailable
from bentos.inference.wire import RegistryChecked
from bentos.process.logs import event, get_logger

_logger = get_logger("registry")


class RegistryWatch:
    """A thread that asks the registry every few seconds and says what it learnt.

    `on_check` is told how each check ended, `on_version` every version that the registry tells,
    the same one again and again; both from the watch's own thread.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        poll_seconds: float,
        on_check: Callable[[RegistryChecked], None],
        on_version: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._poll_seconds = poll_seconds
        self._on_check = on_check
        self._on_version = on_version
        self._stop = threading.Event()
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; a question under way is left to its time-out."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._check()
            self._stop.wait(self._poll_seconds)

    def _check(self) -> None:
        try:
            version = self._registry.resolve()
        except RegistryUnavailable as error:
            self._on_check(RegistryChecked(accessible=False))
            self._say(logging.WARNING, f"registry not accessible: {error}")
            return
        self._on_check(RegistryChecked(accessible=True, version=version))
        if version is None:
            self._say(logging.WARNING, "the registry has no version under this alias or stage")
        else:
            self._say(logging.INFO, f"the registry points to version {version}")
            self._on_version(version)

    def _say(self, level: int, message: str) -> None:
        if message != self._said:
            self._said = message
            event(_logger, level, message)
