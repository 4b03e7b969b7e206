"""The answer of one request while it grows: text held back, tokens counted."""

from genie.contracts.inference import Choice, Fault, FinishReason, Usage
from workers.engine.protocol import EngineRequest, Finish, Piece
from workers.engine.stops import StopFilter


class Answer:
    """Turns tokens of one request into pieces, and its end into one `Finish`.

    Times are seconds on the engine's clock; ``started`` is the submission.
    ``reused`` prompt tokens were in the cache already; ``resumed`` tokens of the answer
    were given before.
    """

    def __init__(
        self, request: EngineRequest, *, prompt: int, started: float, resumed: int = 0
    ) -> None:
        self.request = request
        self.tokens = resumed
        self.reused = 0
        self._prompt = prompt
        self._started = started
        self._first: float | None = None
        self._unsent = 0
        self._choices: list[tuple[int, Choice]] = []
        self._said = self._shown = 0
        self._stops = StopFilter(request.sampling.stop)

    @property
    def is_stopped(self) -> bool:
        """True when a stop string has appeared."""
        return self._stops.hit

    def add(self, text: str, now: float, choice: Choice | None = None) -> Piece | None:
        """Count one token; the piece to send, if any text is ready."""
        self.tokens += 1
        if choice is not None:
            self._choices.append((self._said, choice))
        self._said += len(text)
        self._unsent += 1
        if self._first is None:
            self._first = now
        if self.tokens <= self.request.sampling.min_tokens:
            return self._piece(text)
        return self._piece(self._stops.feed(text))

    def end(
        self, reason: FinishReason, now: float, fault: Fault | None
    ) -> list[Piece | Finish]:
        """The last events: text held back, if the answer is whole, then the finish."""
        finish = self._finish(reason, now, fault)
        piece = None if fault else self._piece(self._stops.flush(), is_last=True)
        return [finish] if piece is None else [piece, finish]

    def _piece(self, text: str, *, is_last: bool = False) -> Piece | None:
        # Tokens whose bytes never became text are owed to whoever asked for them.
        is_owed = is_last and self._choices and not self.is_stopped
        if not (text or is_owed):
            return None
        tokens, self._unsent = self._unsent, 0
        self._shown += len(text)
        return Piece(
            id=self.request.id,
            text=text,
            tokens=tokens,
            choices=self._due(is_all=bool(is_owed)),
        )

    def _due(self, *, is_all: bool) -> tuple[Choice, ...]:
        """The tokens whose text has begun to be shown; a stop's own never are."""
        held = [one for one in self._choices if not is_all and one[0] >= self._shown]
        due = self._choices[: len(self._choices) - len(held)]
        self._choices = held
        return tuple(choice for _, choice in due)

    def _finish(self, reason: FinishReason, now: float, fault: Fault | None) -> Finish:
        first = self._first if self._first is not None else now
        return Finish(
            id=self.request.id,
            reason=reason,
            usage=Usage(
                prompt_tokens=self._prompt,
                completion_tokens=self.tokens,
                cached_tokens=self.reused,
            ),
            fault=fault,
            first_token_s=max(0.0, first - self._started),
            total_s=max(0.0, now - self._started),
        )
