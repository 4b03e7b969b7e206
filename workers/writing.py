"""The answers of one attempt while the engine writes them (pure)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from genie.contracts.inference import (
    Choice,
    Extras,
    FinishReason,
    Sampling,
    Usage,
    Written,
)
from workers.engine.protocol import Finish, Piece


@dataclass(slots=True, kw_only=True)
class Writing:
    """One answer; ``before`` is what earlier attempts have written of it.

    ``is_open`` says that this attempt asks an engine for it.
    """

    before: Written
    is_open: bool = True
    finish: Finish | None = None
    is_told: bool = False
    _texts: list[str] = field(default_factory=list)
    _tokens: int = 0
    _choices: list[Choice] = field(default_factory=list)

    def sampling(self, asked: Sampling, index: int) -> Sampling:
        """How to write it: each answer of a request has a random stream of its own."""
        own = asked
        if asked.seed is not None and index:
            own = replace(asked, seed=asked.seed + index)
        if self.before.finish_reason is None:
            return own
        # It ended before: the engine is asked for its end alone.
        return replace(own, max_tokens=0, min_tokens=0)

    def add(self, piece: Piece) -> None:
        """Keep some more of it."""
        self._texts.append(piece.text)
        self._tokens += piece.tokens
        self._choices += piece.choices

    def untold_end(self) -> FinishReason | None:
        """Why it ended, to be told once."""
        if self.is_told or self.reason is None:
            return None
        self.is_told = True
        return self.reason

    @property
    def written(self) -> Written:
        """All of it so far."""
        return Written(
            text=self.before.text + "".join(self._texts),
            tokens=self.before.tokens + self._tokens,
            choices=(*self.before.choices, *self._choices),
            finish_reason=self.reason,
        )

    @property
    def reason(self) -> FinishReason | None:
        """Why it ended by itself, None while it has not."""
        ended, finish = self.before.finish_reason, self.finish
        if ended or finish is None or finish.fault is not None:
            return ended
        return None if finish.reason is FinishReason.CANCELLED else finish.reason


def begun(n: int, before: Sequence[Written]) -> list[Writing]:
    """The answers to write; those that ended before stay as they are.

    Had all of them, the last is asked for once more: somebody has to say the end.
    """
    all_of_them = [*before, *([Written()] * n)][: max(1, n)]
    made = [_begun(one) for one in all_of_them]
    if not any(one.is_open for one in made):
        made[-1].is_open = True
    return made


def _begun(before: Written) -> Writing:
    has_ended = before.finish_reason is not None
    return Writing(before=before, is_open=not has_ended, is_told=has_ended)


def together(writings: Sequence[Writing]) -> Finish:
    """The ends of all answers as one: tokens summed, the prompt counted once."""
    ends = [one.finish for one in writings if one.finish is not None]
    earlier = [one.before.tokens for one in writings if one.finish is None]
    written = sum(end.usage.completion_tokens for end in ends) + sum(earlier)
    first = ends[0]
    usage = Usage(
        prompt_tokens=max(end.usage.prompt_tokens for end in ends),
        completion_tokens=written,
        # One of them has read the prompt, the others had it from that one.
        cached_tokens=min(end.usage.cached_tokens for end in ends),
    )
    return replace(
        first,
        reason=writings[0].reason or first.reason,
        usage=usage,
        first_token_s=min(end.first_token_s for end in ends),
        total_s=max(end.total_s for end in ends),
    )


def extras(found: Extras | None, writings: Iterable[Written]) -> Extras | None:
    """What an outcome holds besides the first answer's text, None for nothing."""
    first, *others = writings
    whole = replace(found or Extras(), choices=first.choices, others=tuple(others))
    return None if whole == Extras() else whole


def length(answers: Iterable[Written]) -> int:
    """Characters of all answers together."""
    return sum(len(one.text) for one in answers)
