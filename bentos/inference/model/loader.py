"""Loads the version that is to be served, in the background, for ever."""

import gc
import logging
import random
import threading
import time
from collections.abc import Callable

import msgspec

from bentos.inference.channel import LoadChanged
from bentos.inference.model.spec import ModelIdentity
from bentos.inference.model.warm_up import LoadedModel
from bentos.process.backoff import Backoff
from bentos.process.logs import event, get_logger
from bentos.process.secrets import redact

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0

_CLASSES_LOGGED = 50

_logger = get_logger("loader")


class ModelLoader:
    """A thread that loads the wanted version whenever it is not the one served.

    A version that fails is tried again with growing pauses; the last good model is served
    meanwhile. Before it replaces one, a pod waits at random up to `spread_seconds`: pods load one
    after the other, as a load takes processor time and memory. `install` takes each model that
    loaded; `on_change` gets how the loading stands whenever that changes. Both are called on the
    loader's thread.
    """

    def __init__(
        self,
        load: Callable[[ModelIdentity], LoadedModel],
        install: Callable[[LoadedModel], None],
        *,
        on_change: Callable[[LoadChanged], object],
        spread_seconds: float = 0.0,
    ) -> None:
        self._load = load
        self._install = install
        self._on_change = on_change
        self._spread_seconds = spread_seconds
        self._wanted: ModelIdentity | None = None
        self._served: ModelIdentity | None = None
        self._tried: ModelIdentity | None = None
        self._changed = threading.Condition()
        self.status = LoadChanged("waiting")
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)

    def start(self) -> None:
        """Begin to wait for a version."""
        self._thread.start()

    def want(self, version: ModelIdentity) -> None:
        """Say which version is to be served; the same one again changes nothing."""
        with self._changed:
            if version != self._wanted:
                self._wanted = version
                self._changed.notify()

    def _run(self) -> None:
        backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        attempts = 0
        while True:
            version = self._next()
            if version != self._tried:
                backoff.reset()
                attempts = 0
                if self._served is not None and self._waited(version, self._spread()):
                    continue
            self._tried = version
            attempts += 1
            pause = backoff.next()
            if not self._attempt(version, attempts, pause):
                self._waited(version, pause)

    def _next(self) -> ModelIdentity:
        """Wait for a wanted version that is not served."""
        with self._changed:
            if self._served is not None and self._wanted == self._served != self._tried:
                # A version that failed and is no longer wanted is nothing to complain of.
                self._tried = self._served
                self._say(LoadChanged("loaded", self._served.version, 1))
            while self._wanted is None or self._wanted == self._served:
                self._changed.wait()
            return self._wanted

    def _waited(self, version: ModelIdentity, seconds: float) -> bool:
        """Wait, unless another version is wanted meanwhile; tell whether one is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._wanted != version, seconds)

    def _spread(self) -> float:
        return random.uniform(0.0, self._spread_seconds)  # noqa: S311

    def _say(self, status: LoadChanged) -> None:
        if status != self.status:
            self._on_change(status)
            self.status = msgspec.structs.replace(status, succeeded=None, seconds=0.0)

    def _attempt(self, version: ModelIdentity, attempts: int, pause: float) -> bool:
        number = version.version
        self._say(LoadChanged("loading", number, attempts, self.status.error))
        event(_logger, logging.INFO, "loading the model", {"version": number, "attempt": attempts})
        started = time.perf_counter()
        try:
            model = self._load(version)
        except Exception as error:
            seconds = time.perf_counter() - started
            text = redact(str(error) or type(error).__name__)
            retry_at = time.monotonic() + pause
            self._say(LoadChanged("failed", number, attempts, text, retry_at, False, seconds))
            fields = {"version": number, "attempt": attempts, "retry_in_seconds": pause}
            event(_logger, logging.ERROR, f"the model did not load: {text}", fields)
            return False
        seconds = time.perf_counter() - started
        self._settle_heap()  # before anybody waits for an answer
        self._install(model)
        self._served = version
        self._say(LoadChanged("loaded", number, attempts, succeeded=True, seconds=seconds))
        fields = {
            "version": number,
            "seconds": round(seconds, 2),
            "input_shape": list(model.spec.input_shape),
            "classes": list(model.spec.class_names[:_CLASSES_LOGGED]),
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
