"""An even random sample of what goes by."""

from __future__ import annotations

from math import exp, log
from random import Random

from replicad.model.manifest import HASH_BYTES


class ChunkSample:
    """Keeps `size` of the chunks that it is shown, each of them with the same chance; all of them while they are fewer.

    Li's algorithm L: it draws how many chunks to pass over until the next one that is kept, so that its cost follows
    the sample, not the disk.
    """

    def __init__(self, size: int, random: Random) -> None:
        self.chosen: list[tuple[int, bytes]] = []
        """Chunk and hash, in no order."""
        self._size = size
        self._random = random
        self._seen = 0
        self._next = 0
        self._weight = 1.0

    def show(self, first: int, hashes: bytes) -> None:
        """The chunks from `first` on, with their hashes, joined."""
        end = self._seen + len(hashes) // HASH_BYTES
        while self._next < end:
            place = self._next - self._seen
            chunk = (first + place, bytes(hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES]))
            if len(self.chosen) < self._size:
                self.chosen.append(chunk)
            else:
                self.chosen[self._random.randrange(self._size)] = chunk
            self._next += 1 if len(self.chosen) < self._size else 1 + self._pass_over()
        self._seen = end

    def _pass_over(self) -> int:
        self._weight *= exp(log(self._draw()) / self._size)
        return int(log(self._draw()) / log(1.0 - self._weight)) if self._weight < 1.0 else 0

    def _draw(self) -> float:
        return 1.0 - self._random.random()  # above 0, as a logarithm wants it
