"""Tokens to pieces worth a message: the first at once, then a few at a time (pure).

In the engine's process, so that neither the pipe nor the worker has work with each
token of each request.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from genie.contracts.inference import Choice
from workers.engine.protocol import EngineEvent, Finish, Piece

EVERY_S = 0.03
EVERY_TOKENS = 4


@dataclass(slots=True)
class _Held:
    """What of one answer is not sent yet; ``sent_at`` is when the last piece was."""

    sent_at: float | None = None
    text: str = ""
    tokens: int = 0
    choices: list[Choice] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.choices += piece.choices

    def is_due(self, now: float) -> bool:
        if self.sent_at is None or self.tokens >= EVERY_TOKENS:
            return True
        return now - self.sent_at >= EVERY_S

    def take(self, request_id: str, now: float) -> Piece:
        whole = Piece(
            id=request_id,
            text=self.text,
            tokens=self.tokens,
            choices=tuple(self.choices),
        )
        self.sent_at, self.text, self.tokens = now, "", 0
        self.choices.clear()
        return whole


class Coalescer:
    """Gathers the pieces of all requests; times are monotonic seconds."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    def feed(self, events: Iterable[EngineEvent], now: float) -> list[EngineEvent]:
        """What to send of what has happened; an end takes all of its answer along."""
        sent: list[EngineEvent] = []
        for event in events:
            if isinstance(event, Finish):
                held = self._held.pop(event.id, None)
                if held is not None and (held.text or held.tokens):
                    sent.append(held.take(event.id, now))
                sent.append(event)
                continue
            held = self._held.get(event.id)
            if held is None:
                held = self._held[event.id] = _Held()
            held.add(event)
            if held.is_due(now):
                sent.append(held.take(event.id, now))
        return sent
