"""Which tokens of which requests the next step computes, and in which slots.

Deques and integers: no tensor comes in here.
"""

import heapq
from collections import deque
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


RANKS = (WorkClass.INTERACTIVE, WorkClass.JOB, WorkClass.BATCH)
"""Who is admitted first when slots are scarce."""

YIELDING = (WorkClass.BATCH,)
"""Who gives its slot to the others when all are taken, and is computed anew later."""

FAIR_TURN = 8
"""Every eighth admission takes whoever waits longest, so that no class starves. It
keeps its slot: who yields again and again would never end."""


@dataclass(slots=True, frozen=True)
class PromptChunk:
    """``length`` prompt tokens of a sequence, from ``start``."""

    sequence: Sequence
    start: int
    length: int

    @property
    def completes(self) -> bool:
        """True when the prompt is whole after this chunk: it yields a token."""
        return self.start + self.length == self.sequence.prompt


@dataclass(slots=True, frozen=True)
class ForwardPass:
    """What one forward pass computes."""

    decodes: tuple[Sequence, ...] = ()
    chunks: tuple[PromptChunk, ...] = ()
    copies: tuple[SlotCopy, ...] = ()

    @property
    def answering(self) -> tuple[Sequence, ...]:
        """The sequences that get a token: decodes, then the prompts read to the end."""
        read = (chunk.sequence for chunk in self.chunks if chunk.completes)
        return (*self.decodes, *read)

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to compute."""
        return not (self.decodes or self.chunks)

    @property
    def tokens(self) -> int:
        """Tokens in the pass."""
        return len(self.decodes) + sum(chunk.length for chunk in self.chunks)


class WaitingQueueFull(Exception):
    """The waiting room is full; nothing was taken."""


@dataclass(slots=True)
class _WaitingQueues:
    """Requests without a slot: one queue a class, and turns to tell who is oldest."""

    queues: dict[WorkClass, deque[Sequence]] = field(
        default_factory=lambda: {rank: deque() for rank in RANKS}
    )
    admissions: int = 0
    turn: int = 0

    def __len__(self) -> int:
        return sum(len(queue) for queue in self.queues.values())

    def add(self, sequence: Sequence) -> None:
        self.turn += 1
        sequence.turn = self.turn
        self.queues[sequence.work_class].append(sequence)

    def take(self) -> Sequence:
        """The next to admit; call only when someone waits."""
        self.admissions += 1
        waiting = [queue for queue in self.queues.values() if queue]
        if self.admissions % FAIR_TURN == 0:
            oldest = min(waiting, key=lambda queue: queue[0].turn).popleft()
            oldest.can_yield = False
            return oldest
        return waiting[0].popleft()

    def put_back(self, sequence: Sequence) -> None:
        """It had a slot and lost it: the first of its class again."""
        self.queues[sequence.work_class].appendleft(sequence)

    @property
    def has_urgent(self) -> bool:
        """True while someone waits whom others yield to."""
        return any(self.queues[rank] for rank in RANKS if rank not in YIELDING)

    def discard(self, sequence: Sequence) -> None:
        self.queues[sequence.work_class].remove(sequence)


class Scheduler:
    """Admission, chunking and the end of sequences for ``slots`` slots.

    ``budget`` bounds the tokens of a step, ``waiting`` the requests without a slot.
    """

    def __init__(self, *, slots: int, budget: int, waiting: int) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.slots = slots
        # Decoding takes a token a slot; prefill must be left room to move at all.
        self.budget = max(budget, slots + 1)
        self.bound = waiting
        self._slots = Slots(slots)
        self._waiting = _WaitingQueues()
        self._running: dict[str, Sequence] = {}
        self._known: dict[str, Sequence] = {}

    def add(self, sequence: Sequence) -> None:
        """Queue a request; raises WaitingQueueFull, ValueError for an id in flight."""
        if sequence.id in self._known:
            raise ValueError(f"request {sequence.id} is already in flight")
        if len(self._known) >= self.slots + self.bound:
            raise WaitingQueueFull
        self._known[sequence.id] = sequence
        self._waiting.add(sequence)

    def get(self, request_id: str) -> Sequence | None:
        """The request if it is in flight."""
        return self._known.get(request_id)

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """End a request wherever it is: its slot is free at once.

        ``keep`` says that its tokens in the cache are sound and may be reused.
        """
        del self._known[sequence.id]
        if sequence.slot < 0:
            self._waiting.discard(sequence)
            return
        del self._running[sequence.id]
        self._slots.release(sequence, keep=keep)

    def overdue(self, now: float) -> list[Sequence]:
        """Requests whose deadline has passed."""
        return [one for one in self._known.values() if one.deadline <= now]

    def plan(self) -> ForwardPass:
        """Admit whom there is a slot for, then say what the next step computes."""
        self._admit()
        decodes = [one for one in self._running.values() if one.is_decoding]
        # In slot order, so that the attention reads one span of the cache.
        decodes.sort(key=lambda one: one.slot)
        copies: list[SlotCopy] = []
        chunks = self._chunks(self.budget - len(decodes), copies)
        return ForwardPass(tuple(decodes), tuple(chunks), tuple(copies))

    def done(self, step: ForwardPass) -> None:
        """The step's tokens are in the cache now."""
        for sequence in step.decodes:
            sequence.computed += 1
        for chunk in step.chunks:
            chunk.sequence.computed += chunk.length

    def _admit(self) -> None:
        while len(self._waiting) and (self._slots.free or self._make_room()):
            sequence = self._waiting.take()
            self._slots.give(sequence)
            self._running[sequence.id] = sequence

    def _make_room(self) -> bool:
        """Take a slot from whoever loses least by it, if more urgent work waits."""
        if not self._waiting.has_urgent:
            return False
        loses = [one for one in self._running.values() if one.can_yield]
        if not loses:
            return False
        one = min(loses, key=lambda one: one.computed)
        del self._running[one.id]
        # Its tokens are about to be overwritten: nobody may build on them.
        self._slots.release(one, keep=False)
        one.rewind()
        self._waiting.put_back(one)
        return True

    def _chunks(self, room: int, copies: list[SlotCopy]) -> list[PromptChunk]:
        """Prompt chunks in order of admission; adds what to copy before them."""
        chunks: list[PromptChunk] = []
        ahead: list[Sequence] = []
        for one in self._running.values():
            if one.is_decoding:
                continue
            if room <= 0:
                break
            # The first in line waits for nobody, so every step moves.
            if not self._begins(one, ahead, copies):
                continue
            length = min(room, one.prompt - one.computed)
            chunks.append(PromptChunk(one, one.computed, length))
            room -= length
        return chunks

    def _begins(
        self, one: Sequence, ahead: list[Sequence], copies: list[SlotCopy]
    ) -> bool:
        is_held = not one.has_begun and waits(one, ahead)
        ahead.append(one)
        if is_held or one.has_begun:
            return not is_held
        copy = self._slots.begin(one)
        if copy is not None:
            copies.append(copy)
        return True

    @property
    def active(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)
