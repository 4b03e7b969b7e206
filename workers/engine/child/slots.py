"""Gives out the slots of the KV cache, and finds the beginnings of prompts in them.

A slot keeps its tokens after its sequence has ended, until another needs the room:
a prompt that begins with them starts from there. Only within one scope, since how
fast an answer comes tells what others have asked before.
"""

import heapq
from dataclasses import dataclass, field

from genie.contracts.inference import WorkClass

LEAST = 16
"""Fewer tokens in common are not worth a copy or a wait."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One request as the scheduler sees it; all figures are in tokens.

    ``deadline`` is on the engine's clock. ``computed`` of ``tokens``, prompt first,
    are in the KV cache; ``reused`` of them came from another request of ``scope``.
    ``can_yield`` says that it may lose its slot to more urgent work; ``yielded`` is
    how often it has.
    """

    id: str
    work_class: WorkClass
    prompt: int
    limit: int
    deadline: float
    scope: str = ""
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    produced: int = 0
    reused: int = 0
    slot: int = -1
    turn: int = 0
    can_yield: bool = False
    yielded: int = 0
    has_begun: bool = False
    leader: "PrefixLeader | None" = None

    @property
    def is_decoding(self) -> bool:
        """True when the whole prompt is in the cache."""
        return self.computed >= self.prompt

    def rewind(self) -> None:
        """Nothing of it is in the cache any more: what it has said is prompt now."""
        self.prompt = max(self.prompt, self.computed + 1)
        self.computed, self.has_begun = 0, False
        self.yielded += 1

    def starts_from(self, shared: int) -> None:
        """So many of its tokens are in its slot, from another request."""
        self.computed = shared
        if not self.yielded:  # what is computed again was never saved
            self.reused = shared


@dataclass(slots=True, frozen=True)
class PrefixLeader:
    """A running sequence whose prompt begins alike: ``shared`` tokens to wait for."""

    sequence: Sequence
    shared: int
    run: int

    @property
    def is_running(self) -> bool:
        """False once it has ended or lost its slot, even if it got another since."""
        return self.sequence.slot >= 0 and self.sequence.yielded == self.run

    @property
    def is_under_way(self) -> bool:
        """True while it still computes what is shared."""
        return self.is_running and self.sequence.computed < self.shared


@dataclass(slots=True, frozen=True)
class SlotCopy:
    """The first ``length`` tokens of one slot go into another before the pass."""

    source: int
    target: int
    length: int


class Slots:
    """``count`` slots: given, taken back, and searched for a prompt's beginning."""

    def __init__(self, count: int) -> None:
        self._owners: list[Sequence | None] = [None] * count
        self._used_at = [0] * count
        self._free = set(range(count))
        self._oldest = [(0, slot) for slot in range(count)]
        """A heap of (used at, slot); what is no longer true of a slot is skipped."""

        self._clock = 0

    @property
    def free(self) -> int:
        """Slots nobody runs in."""
        return len(self._free)

    def give(self, sequence: Sequence) -> None:
        """Give a free slot: one whose tokens the prompt begins with, if any."""
        # Empty slots first, lowest first: that keeps the used span of the cache
        # short. Then the one whose tokens nobody has needed for longest.
        oldest = self._longest_unused()
        donor, shared = self._donor(sequence, self._free)
        owner = None if donor is None else self._owners[donor]
        if donor is None or owner is None:
            shared = 0
        elif donor == oldest or 2 * shared >= owner.computed:
            oldest = donor
        else:
            # What it holds is mostly another conversation: leave it, copy later.
            shared = 0
        self._free.remove(oldest)
        self._owners[oldest] = sequence
        sequence.slot = oldest
        sequence.starts_from(shared)

    def release(self, sequence: Sequence, *, keep: bool) -> None:
        """The slot is free; without ``keep`` nobody may use what it holds."""
        slot, sequence.slot = sequence.slot, -1
        sequence.leader = None
        self._free.add(slot)
        is_useful = keep and min(sequence.computed, len(sequence.tokens)) >= LEAST
        self._owners[slot] = sequence if is_useful else None
        self._touch(slot, is_empty=not is_useful)

    def begin(self, sequence: Sequence) -> SlotCopy | None:
        """Called before a prompt's first chunk: what to copy into its slot, if any."""
        sequence.has_begun, sequence.leader = True, None
        if len(sequence.tokens) < LEAST:
            return None
        others = set(range(len(self._owners))) - {sequence.slot}
        donor, shared = self._donor(sequence, others)
        if donor is None or shared < sequence.computed + LEAST:
            return None
        if donor in self._free:
            self._touch(donor)
        sequence.starts_from(shared)
        return SlotCopy(donor, sequence.slot, shared)

    def _longest_unused(self) -> int:
        """The free slot whose turn it is, of thousands perhaps."""
        while True:
            used_at, slot = self._oldest[0]
            if slot in self._free and used_at == self._used_at[slot]:
                return slot
            heapq.heappop(self._oldest)

    def _donor(self, sequence: Sequence, among: set[int]) -> tuple[int | None, int]:
        best, longest = None, LEAST - 1
        if len(sequence.tokens) < LEAST:
            return best, longest
        for slot in sorted(among):
            owner = self._owners[slot]
            if owner is None or not _is_like(owner, sequence):
                continue
            # The prompt's last token is always computed: it yields the first answer.
            most = min(owner.computed, sequence.prompt - 1)
            shared = common_prefix_length(owner.tokens, sequence.tokens, most)
            if shared > longest:
                best, longest = slot, shared
        return best, longest

    def _touch(self, slot: int, *, is_empty: bool = False) -> None:
        self._clock += 1
        self._used_at[slot] = 0 if is_empty else self._clock
        heapq.heappush(self._oldest, (self._used_at[slot], slot))


def waits(sequence: Sequence, ahead: list[Sequence]) -> bool:
    """True while another prompt, ahead of this one, computes what both begin with."""
    leader = sequence.leader
    if leader is None or not leader.is_running:
        leader = sequence.leader = _leader(sequence, ahead)
    return leader is not None and leader.is_under_way


def _leader(sequence: Sequence, ahead: list[Sequence]) -> PrefixLeader | None:
    best: PrefixLeader | None = None
    longest = sequence.computed + LEAST - 1
    for other in ahead:
        if not _is_like(other, sequence):
            continue
        most = min(other.prompt, sequence.prompt - 1)
        shared = common_prefix_length(other.tokens, sequence.tokens, most)
        if shared > longest:
            best, longest = PrefixLeader(other, shared, other.yielded), shared
    return best


def _is_like(one: Sequence, other: Sequence) -> bool:
    """True if two prompts of one scope begin with the `LEAST` same tokens: a quick
    look, since most begin with others."""
    return one.scope == other.scope and one.tokens[:LEAST] == other.tokens[:LEAST]


def common_prefix_length(left: list[int], right: list[int], most: int) -> int:
    """How many tokens two lists begin with alike, at most ``most``.

    >>> common_prefix_length([1, 2, 3, 4], [1, 2, 9, 4], 4)
    2
    """
    low, high = 0, max(0, min(most, len(left), len(right)))
    while low < high:
        middle = (low + high + 1) // 2
        # Compared in slices: a loop over tokens would be tens of times slower.
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
