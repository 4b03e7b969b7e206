"""Chooses the tokens that the next step computes, with deques and integers.

A sequence owns a slot of the KV cache from admission to its end, unless it is of a
class that yields and more urgent work needs the slot. Every step takes one token of
each decoding sequence, then prompt chunks up to a token budget.
"""

from collections import deque
from dataclasses import dataclass, field

from genie.contracts.inference import WorkClass
from workers.engine.child.slots import Sequence, SlotCopy, Slots, waits

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
        """Queue a request; raises Full, or ValueError for an id in flight."""
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

    @property
    def cached(self) -> int:
        """Tokens in the KV cache."""
        return sum(one.computed for one in self._running.values())

    @property
    def queued(self) -> int:
        """Prompt tokens not computed yet, waiting and running."""
        left = (one.prompt - one.computed for one in self._known.values())
        return sum(max(0, tokens) for tokens in left)


__all__ = [
    "RANKS",
    "PromptChunk",
    "SlotCopy",
    "WaitingQueueFull",
    "Scheduler",
    "Sequence",
    "ForwardPass",
]
