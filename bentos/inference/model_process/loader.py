"""Loads the version that is to be served, in the background, for ever."""

import gc
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from bentos.inference.model import LoadedModel
from bentos.inference.wire import LoadChanged
from bentos.process.logs import event, get_logger

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0

_logger = get_logger("loader")

Load = Callable[[str], LoadedModel]


class ModelLoader:
    """A thread that loads the wanted version whenever it is not the one served.

    A version that fails is tried again with growing pauses; the last good model is served
    meanwhile. `install` takes each model that loaded; `on_change` is told how the loading stands
    whenever that changes. Both are called from the loader's thread.
    """

    def __init__(
        self,
        load: Load,
        install: Callable[[LoadedModel], None],
        *,
        on_change: Callable[[LoadChanged], None],
    ) -> None:
        self._load = load
        self._install = install
        self._on_change = on_change
        self._wanted: str | None = None
        self._changed = threading.Condition()
        self._stopped = False
        self.status = LoadChanged("waiting")
        self._loaded: LoadChanged | None = None
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)

    def start(self) -> None:
        """Begin to wait for a version."""
        self._thread.start()

    def stop(self) -> None:
        """Load no more; a load under way is left to end with the process."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def want(self, version: str) -> None:
        """Say which version is to be served; the same one again changes nothing."""
        with self._changed:
            if version != self._wanted:
                self._wanted = version
                self._changed.notify()

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        attempts = 0
        while (version := self._next()) is not None:
            attempts = attempts + 1 if version == self.status.version else 1
            if attempts == 1:
                pause = FIRST_PAUSE_SECONDS
            if self._attempt(version, attempts, pause):
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._wanted != version, pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _next(self) -> str | None:
        """Wait for a wanted version that is not served; None at the end."""
        with self._changed:
            if self._missing() is None and self._loaded is not None:
                # A version that failed and is no longer wanted is nothing to complain of.
                self._tell(self._loaded)
            self._changed.wait_for(lambda: self._stopped or self._missing() is not None)
            return None if self._stopped else self._missing()

    def _missing(self) -> str | None:
        served = self._loaded.version if self._loaded is not None else None
        return self._wanted if self._wanted != served else None

    def _tell(self, status: LoadChanged) -> None:
        if status != self.status:
            self.status = status
            self._on_change(status)

    def _attempt(self, version: str, attempts: int, pause: float) -> bool:
        self._tell(LoadChanged("loading", version, attempts, self.status.error))
        event(_logger, logging.INFO, "loading the model", {"version": version, "attempt": attempts})
        started = time.perf_counter()
        try:
            model = self._load(version)
        except Exception as error:
            seconds = time.perf_counter() - started
            text = str(error) or type(error).__name__
            retry_at = time.monotonic() + pause
            self._tell(LoadChanged("failed", version, attempts, text, retry_at, False, seconds))
            fields = {"version": version, "attempt": attempts, "retry_in_seconds": pause}
            event(_logger, logging.ERROR, f"the model did not load: {text}", fields)
            return False
        seconds = time.perf_counter() - started
        self._install(model)
        loaded = LoadChanged("loaded", version, attempts)
        self._loaded = loaded
        self._tell(replace(loaded, succeeded=True, seconds=seconds))
        self.status = loaded
        self._settle_heap()
        fields = {
            "version": version,
            "seconds": round(seconds, 2),
            "input_shape": list(model.spec.input_shape),
            "classes": list(model.spec.class_names),
            "max_batch": model.max_batch,
        }
        event(_logger, logging.INFO, "model loaded", fields)
        return True

    @staticmethod
    def _settle_heap() -> None:
        """Collect, and after the first load take what is there out of all later collections.

        A full collection over the heap that torch and MLflow leave stops the process for a tenth
        of a second and more, whenever it comes. Frozen, it is passed over from then on, and the
        collection after a later load sees that load's own garbage only.
        """
        gc.collect()
        if gc.get_freeze_count() == 0:
            gc.freeze()
