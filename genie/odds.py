"""How likely the tokens of an answer were, in OpenAI's words."""

import msgspec


class TokenOdds(msgspec.Struct, frozen=True, kw_only=True):
    """A token and its log probability; ``bytes`` where it is no whole character."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None


class TokenLogprob(TokenOdds, frozen=True, kw_only=True):
    """A token that came, with the likeliest ones at its place."""

    top_logprobs: tuple[TokenOdds, ...] = ()


class Logprobs(msgspec.Struct, frozen=True, kw_only=True):
    """How likely each token of an answer was."""

    content: tuple[TokenLogprob, ...] | None = None
