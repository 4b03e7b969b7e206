"""Tokens to chunks."""

from hypothesis import given
from hypothesis import strategies as st

from workers.coalesce import EVERY_S, EVERY_TOKENS, Coalescer


def test_the_first_token_goes_at_once_and_the_next_ones_by_fours() -> None:
    chunks = Coalescer()
    sent = [chunks.feed(f"{n}", 1, now=0.001 * n) for n in range(6)]
    assert sent == [("0", 1), None, None, None, ("1234", 4), None]


def test_a_slow_engine_sends_every_token() -> None:
    chunks = Coalescer()
    sent = [chunks.feed("x", 1, now=EVERY_S * n) for n in range(3)]
    assert sent == [("x", 1)] * 3


def test_nothing_held_is_nothing_to_flush() -> None:
    assert Coalescer().flush(now=0.0) is None


pieces = st.lists(
    st.tuples(st.text(max_size=3), st.integers(1, 5), st.floats(0, 0.05)), max_size=30
)


@given(pieces)
def test_no_text_and_no_token_is_lost_or_reordered(
    pieces: list[tuple[str, int, float]],
) -> None:
    chunks, now, sent = Coalescer(), 0.0, []
    for text, tokens, pause in pieces:
        now += pause
        sent.append(chunks.feed(text, tokens, now))
        assert chunks.tokens < EVERY_TOKENS
    sent.append(chunks.flush(now))
    whole = [it for it in sent if it is not None]
    assert "".join(text for text, _ in whole) == "".join(p[0] for p in pieces)
    assert sum(tokens for _, tokens in whole) == sum(p[1] for p in pieces)
