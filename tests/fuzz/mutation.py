"""Real inputs, damaged at random: what a fuzzer without a view of the code can do."""

import random
from collections.abc import Sequence

_INTERESTING = (
    *(b"", b"\0", b"\xff", b"\r\n", b"\r\n\r\n", b"--", b'"', b"[" * 60, b"{", b"}", b"]"),
    *(b"NaN", b"-1", b"1e999", b"\xed\xa0\x80", b"\xc0\xaf", "\u202e\U0001f4a9".encode()),
    *(b"../../etc/passwd", b"%00", b"\x80\x00\x00\x00", b"\xff\xff\xff\xff", b"A" * 300),
)


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Return one of the seeds with a few changes: bits, pieces cut, repeated, moved and joined."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 256)))
        match chance.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1:
                data[at:end] = chance.choice(_INTERESTING)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end] * chance.choice((1, 2, 50))
            case 4:
                data[at:end] = chance.randbytes(end - at)
            case _:
                other = chance.choice(seeds)
                data[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(data)
