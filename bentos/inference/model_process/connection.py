"""The model process's end of the stream: whole batches in, answers and events out."""

import socket
from collections.abc import Iterable
from threading import Lock

from bentos.inference.wire import LENGTH, Input, Message, pack, unpack_input

_BUFFER_BYTES = 1 << 20


class Connection:
    """A stream socket to the worker. One thread receives, any thread sends."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._buffer = bytearray(_BUFFER_BYTES)
        self._start = 0
        self._end = 0
        self._sending = Lock()

    def receive(self, most: int) -> list[tuple[int, Input]]:
        """Wait for inputs; return what there is of them by now, empty at the stream's end."""
        inputs: list[tuple[int, Input]] = []
        while len(inputs) < most:
            content = self._next()
            if content is not None:
                inputs.append(unpack_input(content))
            elif not self._fill(wait=not inputs):
                break
        return inputs

    def receive_settings(self) -> bytes:
        """Wait for the first frame, which holds the settings; empty at the stream's end."""
        while (content := self._next()) is None:
            if not self._fill(wait=True):
                return b""
        return bytes(content)

    def send(self, messages: Iterable[Message]) -> None:
        """Send messages in one piece."""
        data = b"".join(pack(message) for message in messages)
        with self._sending:
            self._stream.sendall(data)

    def _next(self) -> memoryview | None:
        """Take the next whole frame out of the buffer; None where there is none yet."""
        have = self._end - self._start
        if have < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._buffer, self._start)
        if have < LENGTH.size + length:
            self._make_room(LENGTH.size + length)
            return None
        first = self._start + LENGTH.size
        self._start = first + length
        return memoryview(self._buffer)[first : first + length]

    def _make_room(self, size: int) -> None:
        if self._start + size <= len(self._buffer):
            return
        left = self._buffer[self._start : self._end]
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        self._buffer[: len(left)] = left
        self._start, self._end = 0, len(left)

    def _fill(self, *, wait: bool) -> bool:
        """Receive more bytes; tell whether some came."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._make_room(len(self._buffer) - self._start + 1)
        room = memoryview(self._buffer)[self._end :]
        try:
            count = self._stream.recv_into(room, 0, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError:
            return False
        self._end += count
        return count > 0
