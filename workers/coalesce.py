"""Tokens to chunks: the first at once, then a few at a time (pure)."""

from dataclasses import dataclass

EVERY_S = 0.025
EVERY_TOKENS = 4


@dataclass(slots=True)
class Coalescer:
    """Gathers text until it is worth a message; times are monotonic seconds."""

    text: str = ""
    tokens: int = 0
    sent_at: float | None = None

    def feed(self, text: str, tokens: int, now: float) -> tuple[str, int] | None:
        """Add a piece; what to send now, if anything is due."""
        self.text += text
        self.tokens += tokens
        if self.sent_at is not None and not self._is_due(self.sent_at, now):
            return None
        return self.flush(now)

    def flush(self, now: float) -> tuple[str, int] | None:
        """What is held, if anything."""
        if not self.text and not self.tokens:
            return None
        self.sent_at = now
        held = self.text, self.tokens
        self.text, self.tokens = "", 0
        return held

    def _is_due(self, sent_at: float, now: float) -> bool:
        return self.tokens >= EVERY_TOKENS or now - sent_at >= EVERY_S
