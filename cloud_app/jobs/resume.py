"""Answers of one attempt after another, as unbroken ones (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from genie.contracts.inference import Chunk, PartialAnswer


class BrokenAnswer(Exception):
    """A stream that cannot be continued truthfully."""


@dataclass(slots=True)
class _AnswerProgress:
    """One answer: what its reader has, and how far the present attempt has come."""

    given: PartialAnswer = field(default_factory=PartialAnswer)
    seen: PartialAnswer = field(default_factory=PartialAnswer)

    def begin(self, resumed: int) -> None:
        """An attempt goes on after so many characters, or starts anew."""
        text = self.given.text[:resumed]
        self.seen = replace(self.given, text=text) if text else PartialAnswer()

    def advance(self, chunk: Chunk) -> PartialAnswer:
        """What a chunk of the present attempt adds to what was given."""
        seen = self.seen = PartialAnswer(
            text=self.seen.text + chunk.text,
            tokens=self.seen.tokens + chunk.tokens,
            choices=(*self.seen.choices, *chunk.choices),
            finish_reason=chunk.finish_reason,
        )
        overlap = min(len(seen.text), len(self.given.text))
        if seen.text[:overlap] != self.given.text[:overlap]:
            raise BrokenAnswer("the second attempt gave another answer")
        return self._give(seen)

    def rest(self, whole: PartialAnswer) -> PartialAnswer:
        """What the finished answer holds beyond what was given."""
        if not whole.text.startswith(self.given.text):
            raise BrokenAnswer("the second attempt gave another answer")
        return self._give(replace(whole, finish_reason=None))

    def _give(self, seen: PartialAnswer) -> PartialAnswer:
        given = self.given
        new = PartialAnswer(
            text=seen.text[len(given.text) :],
            tokens=max(0, seen.tokens - given.tokens),
            choices=seen.choices[len(given.choices) :],
            finish_reason=None if given.finish_reason else seen.finish_reason,
        )
        self.given = PartialAnswer(
            text=given.text + new.text,
            tokens=given.tokens + new.tokens,
            choices=given.choices + new.choices,
            finish_reason=given.finish_reason or new.finish_reason,
        )
        return new


class AnswerResumer:
    """All answers of one job, told apart by their index.

    The next attempt starts over; what it repeats of the text already given is held
    back. With greedy decoding it repeats it exactly; if not, the answer cannot be
    continued and `BrokenAnswer` says so.
    """

    def __init__(self) -> None:
        self._strands: list[_AnswerProgress] = []
        self._attempt: str | None = None
        self._ended: set[str] = set()
        self._seq = 0

    @property
    def attempt(self) -> str | None:
        """The attempt whose text is being given."""
        return self._attempt

    @property
    def given(self) -> tuple[PartialAnswer, ...]:
        """What the reader has of each answer."""
        return tuple(strand.given for strand in self._strands)

    @property
    def has_given(self) -> bool:
        """True once the reader has some text."""
        return any(one.text for one in self.given)

    def knows(self, attempt_id: str) -> bool:
        """True when an attempt has begun, whether it was replaced since or not."""
        return attempt_id in (self._attempt, *self._ended)

    def begin(self, attempt_id: str, resumed: Sequence[int] = ()) -> None:
        """A worker began, so many characters on; earlier attempts are ignored."""
        if self.knows(attempt_id):
            return
        if self._attempt is not None:
            self._ended.add(self._attempt)
        self._attempt, self._seq = attempt_id, 0
        for index, strand in enumerate(self._strands):
            strand.begin(resumed[index] if index < len(resumed) else 0)

    def take(self, chunk: Chunk) -> PartialAnswer:
        """The part of a chunk that is new to the reader; none of one sent twice."""
        self.begin(chunk.attempt_id)
        if chunk.attempt_id != self._attempt or chunk.seq < self._seq:
            return PartialAnswer()
        if chunk.seq != self._seq:
            raise BrokenAnswer(f"chunk {self._seq} of the answer was lost")
        self._seq += 1
        return self._strand(chunk.index).advance(chunk)

    def rest(self, whole: PartialAnswer, index: int = 0) -> PartialAnswer:
        """What a finished answer holds beyond what was given."""
        return self._strand(index).rest(whole)

    def _strand(self, index: int) -> _AnswerProgress:
        while len(self._strands) <= index:
            self._strands.append(_AnswerProgress())
        return self._strands[index]
