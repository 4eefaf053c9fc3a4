"""Large image files to inputs, on a thread of their own: they keep no other input waiting."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from bentos.inference.images import decode, open_image
from bentos.inference.model import ModelSpec
from bentos.inference.wire import Input


class FileReader:
    """Decodes files one after the other, in the order they came.

    `find_spec` says what the model takes now, and raises ServiceError where there is none. Each
    file ends in `on_input` or `on_error`, on the reader's thread.
    """

    def __init__(
        self,
        *,
        max_pixels: int,
        find_spec: Callable[[], ModelSpec],
        on_input: Callable[[int, Input], object],
        on_error: Callable[[int, Exception], object],
    ) -> None:
        self._max_pixels = max_pixels
        self._find_spec = find_spec
        self._on_input = on_input
        self._on_error = on_error
        self._queue: SimpleQueue[tuple[int, Input] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="files", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, identifier: int, file: Input) -> None:
        """Take a file with its id."""
        self._queue.put((identifier, file))

    def stop(self) -> None:
        """End the thread after the file it decodes."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (taken := self._queue.get()) is not None:
            identifier, file = taken
            try:
                image = open_image(file.content, max_pixels=self._max_pixels)
                given = Input.from_array(decode(image, self._find_spec()))
            except Exception as error:
                self._on_error(identifier, error)
            else:
                self._on_input(identifier, given)
