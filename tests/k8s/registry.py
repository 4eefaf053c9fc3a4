"""A gate that a test may shut: the network between pod and registry."""

import contextlib
import selectors
import socket
import threading

from local.process import free_port


class Gate:
    """Forwards connections to a port while it is open; shut, it refuses them and cuts the rest."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener: socket.socket | None = None
        self._cut = threading.Event()
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Let connections through, where it is shut."""
        if self._listener is not None:
            return
        self._cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener, self._cut), daemon=True).start()

    def shut(self) -> None:
        """Refuse connections and cut those that there are."""
        self._cut.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket, cut: threading.Event) -> None:
        while not cut.is_set():
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(near, cut), daemon=True).start()

    def _forward(self, near: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            with near, socket.create_connection(("127.0.0.1", self._target)) as far:
                selector = selectors.DefaultSelector()
                selector.register(near, selectors.EVENT_READ, far)
                selector.register(far, selectors.EVENT_READ, near)
                while not cut.is_set():
                    for key, _ in selector.select(0.1):
                        chunk = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                        if not chunk:
                            return
                        key.data.sendall(chunk)
