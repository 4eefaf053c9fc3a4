"""How much memory the bodies of all requests of a worker may take together."""

# The first bytes of each body are free, or a few large bodies would keep all small ones out.
FREE_BYTES = 65_536


class BodyMemory:
    """Counts the bytes beyond the free ones of each body that are in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes; False, and nothing reserved, where the limit does not allow it."""
        if self.reserved + size > self.limit:
            return False
        self.reserved += size
        return True

    def release(self, size: int) -> None:
        """Give back `size` bytes that were reserved."""
        self.reserved -= size


class Reservation:
    """What one body has reserved of the memory for all."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: BodyMemory | None) -> None:
        self._memory = memory
        self._size = 0

    def grow(self, size: int) -> bool:
        """Reserve what a body of `size` bytes needs; False where there is no memory for it."""
        needed = max(0, size - FREE_BYTES) - self._size
        if needed <= 0 or self._memory is None:
            return True
        if not self._memory.reserve(needed):
            return False
        self._size += needed
        return True

    def release(self) -> None:
        """Give everything back: nothing holds the body any more."""
        if self._memory is not None and self._size:
            self._memory.release(self._size)
            self._size = 0
