"""Tokens to pieces worth a message."""

from hypothesis import given
from hypothesis import strategies as st

from genie.contracts.inference import FinishReason, SampledToken, Usage
from workers.engine.child.backend import EVERY_S, EVERY_TOKENS, PieceCoalescer
from workers.engine.protocol import EngineEvent, Finish, Piece


def piece(text: str, tokens: int = 1, *, of: str = "r") -> Piece:
    return Piece(id=of, text=text, tokens=tokens)


def finish(of: str = "r") -> Finish:
    return Finish(id=of, reason=FinishReason.STOP, usage=Usage())


def test_the_first_token_goes_at_once_and_the_next_ones_by_fours() -> None:
    pieces = PieceCoalescer()
    sent = [pieces.feed([piece(str(n))], now=0.001 * n) for n in range(6)]
    assert sent == [[piece("0")], [], [], [], [piece("1234", 4)], []]


def test_a_slow_engine_sends_every_token() -> None:
    pieces = PieceCoalescer()
    sent = [pieces.feed([piece("x")], now=EVERY_S * n) for n in range(3)]
    assert sent == [[piece("x")]] * 3


def test_an_end_takes_along_what_was_held_and_comes_after_it() -> None:
    pieces = PieceCoalescer()
    pieces.feed([piece("one"), piece(" two")], now=0.0)
    assert pieces.feed([finish()], now=0.001) == [piece(" two"), finish()]
    assert pieces.feed([finish()], now=0.002) == [finish()]


def test_what_ended_is_forgotten_and_its_id_begins_anew() -> None:
    pieces = PieceCoalescer()
    pieces.feed([piece("one"), finish()], now=0.0)
    assert pieces.feed([piece("one")], now=0.001) == [piece("one")]


def test_the_pieces_of_other_requests_do_not_count() -> None:
    pieces = PieceCoalescer()
    pieces.feed([piece("a", of="1"), piece("b", of="2")], now=0.0)
    assert pieces.feed([piece("c", 3, of="1"), piece("d", 3, of="2")], now=0.001) == []


def test_choices_travel_with_their_text() -> None:
    pieces = PieceCoalescer()
    first, *rest = (
        SampledToken(token=token, logprob=-0.5) for token in ("a", "b", "c")
    )
    told = [Piece(id="r", text=it.token, tokens=1, choices=(it,)) for it in rest]
    pieces.feed([Piece(id="r", text="a", tokens=1, choices=(first,))], now=0.0)
    held = pieces.feed([*told, finish()], now=0.001)[0]
    assert held == Piece(id="r", text="bc", tokens=2, choices=tuple(rest))


said = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.text(max_size=3),
        st.integers(1, 5),
        st.floats(0, 0.05),
    ),
    max_size=30,
)


@given(said)
def test_no_text_and_no_token_is_lost_or_reordered(
    said: list[tuple[str, str, int, float]],
) -> None:
    pieces, now = PieceCoalescer(), 0.0
    sent: list[EngineEvent] = []
    for of, text, tokens, pause in said:
        now += pause
        sent += pieces.feed([piece(text, tokens, of=of)], now)
        assert all(it.tokens < EVERY_TOKENS for it in pieces._held.values())
    sent += pieces.feed([finish("a"), finish("b")], now)
    for of in "ab":
        whole = [it for it in sent if isinstance(it, Piece) and it.id == of]
        mine = [it for it in said if it[0] == of]
        assert "".join(it.text for it in whole) == "".join(it[1] for it in mine)
        assert sum(it.tokens for it in whole) == sum(it[2] for it in mine)
