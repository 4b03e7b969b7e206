"""Which decoding slots are read together: integers only.

One call over many slots reads each as far as the longest of them, and skips what a
mask rules out only after reading it. Apart they cost a call each. So neighbours are
read together where what is read for nothing costs less than one more call.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PROGRAMS = 256
"""Two for each processor of a large GPU: more parts than that only cost joining."""


@dataclass(frozen=True, slots=True)
class SlotSpan:
    """Rows ``first`` to ``end`` of a step: slots ``low`` to ``high``, ``reach`` keys.

    Between ``low`` and ``high`` there may be slots that do not decode.
    """

    first: int
    end: int
    low: int
    high: int
    reach: int

    @property
    def keys(self) -> int:
        """Keys that are read."""
        return (self.high - self.low) * self.reach

    @property
    def has_gaps(self) -> bool:
        """True if some of the slots do not decode."""
        return self.high - self.low > self.end - self.first


def spans(
    slots: Sequence[int], lengths: Sequence[int], call_keys: int
) -> tuple[SlotSpan, ...]:
    """Spans over ``slots``, which rise, with as many keys each as ``lengths`` says.

    ``call_keys`` is how many keys could be read in the time that a call takes.

    >>> [(one.low, one.high, one.reach) for one in spans([0, 1, 3], [9, 9, 99], 20)]
    [(0, 2, 9), (3, 4, 99)]
    """
    found: list[SlotSpan] = []
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        last = SlotSpan(row, row + 1, slot, slot + 1, length)
        while found:
            both = _joined(found[-1], last)
            if both.keys > found[-1].keys + last.keys + call_keys:
                break
            last = both
            found.pop()
        found.append(last)
    return tuple(found)


def _joined(one: SlotSpan, other: SlotSpan) -> SlotSpan:
    reach = max(one.reach, other.reach)
    return SlotSpan(one.first, other.end, one.low, other.high, reach)


def parts_of(programs: int, blocks: int) -> int:
    """Into how many parts a GPU reads the ``blocks`` of keys of a sequence, where there
    are ``programs`` pairs of a sequence and a key head.

    A power of two: for each number of parts a kernel is compiled, which takes longer
    than many steps.

    >>> [parts_of(programs, 64) for programs in (1, 24, 128, 600)]
    [64, 8, 2, 1]
    """
    wanted = max(1, min(PROGRAMS // programs, blocks, 64))
    return 1 << (wanted.bit_length() - 1)
