"""What the bodies of all requests together may take: memory, and turns of the event loop."""

from bentos.edge.pace import Pace

# So much of each body is free, or a few large bodies would keep all small ones waiting.
FREE_BYTES = 65_536
# A server reads a quarter of a megabyte at once: with so many bodies a turn is over in a
# millisecond.
_BODIES_A_TURN = 8


class BodyRoom:
    """The bytes beyond the free ones of each body that may be in memory at once."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.taken = 0
        self._pace = Pace(_BODIES_A_TURN)

    def take(self, size: int) -> bool:
        """Take room for so many bytes; False where there is not as much."""
        if self.taken + size > self.most_bytes:
            return False
        self.taken += size
        return True

    def give_back(self, size: int) -> None:
        """Leave room to others again."""
        self.taken -= size

    async def turn(self) -> None:
        """Wait until a body may be read on.

        Its connection is not read from meanwhile, so that any number of large bodies that come at
        full speed leave the event loop to others.
        """
        await self._pace.step()
