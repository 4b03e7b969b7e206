"""Which names of a batch were used before, in a few bytes each."""

import hashlib
from array import array

EMPTY = 0
FIRST_PLACES = 1024


class Seen:
    """A set of names as 64-bit digests in one array: at most 32 bytes a name.

    A Python set of numbers takes about a hundred. A million names collide by chance
    once in 40 million batches.
    """

    def __init__(self) -> None:
        self._places = _empty(FIRST_PLACES)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str) -> bool:
        """Note a name; False when it was noted before."""
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        number = int.from_bytes(digest) or 1  # 0 marks an empty place
        if self._count * 2 >= len(self._places):
            self._grow()
        at = _find(self._places, number)
        if self._places[at] == number:
            return False
        self._places[at] = number
        self._count += 1
        return True

    def _grow(self) -> None:
        larger = _empty(len(self._places) * 2)
        for number in self._places:
            if number != EMPTY:
                larger[_find(larger, number)] = number
        self._places = larger


def _empty(places: int) -> "array[int]":
    return array("Q", [EMPTY]) * places


def _find(places: "array[int]", number: int) -> int:
    """Where a number is, or would be: the first place from its own on that fits."""
    mask = len(places) - 1
    at = number & mask
    while places[at] not in (EMPTY, number):
        at = (at + 1) & mask
    return at
