"""What all engines share: text, stops and figures, and the events they make of them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie.contracts.inference import (
    Fault,
    FinishReason,
    SampledToken,
    Sampling,
    WorkClass,
)
from workers.engine.child.backend import (
    EVERY_S,
    EVERY_TOKENS,
    PieceWriter,
    StopFilter,
    ThroughputMeter,
)
from workers.engine.protocol import EngineRequest, Finish, Piece, waiting_bound

Make = Callable[..., Any]
PLAIN = Sampling()


def writer(
    sampling: Sampling = PLAIN, *, prompt: int = 1, started: float = 0.0
) -> PieceWriter:
    request = EngineRequest(
        id="r",
        scope="org",
        work_class=WorkClass.JOB,
        sampling=sampling,
        deadline_s=60.0,
        prompt="x",
    )
    return PieceWriter(request, prompt=prompt, started=started)


def piece(text: str, tokens: int = 1) -> Piece:
    return Piece(id="r", text=text, tokens=tokens)


def ends(answer: PieceWriter) -> list[Piece]:
    """What comes with the end."""
    *pieces, finish = answer.end(FinishReason.STOP, 1000.0, None)
    assert isinstance(finish, Finish)
    return [one for one in pieces if isinstance(one, Piece)]


def test_the_first_token_goes_at_once_and_the_next_ones_by_fours() -> None:
    answer = writer()
    sent = [answer.add(str(n), 0.001 * n) for n in range(6)]
    assert sent == [piece("0"), None, None, None, piece("1234", 4), None]


def test_a_slow_engine_sends_every_token() -> None:
    answer = writer()
    sent = [answer.add("x", EVERY_S * n) for n in range(3)]
    assert sent == [piece("x")] * 3


def test_an_end_takes_along_what_was_not_sent_and_comes_after_it() -> None:
    answer = writer()
    answer.add("one", 0.0)
    answer.add(" two", 0.001)
    assert ends(answer) == [piece(" two")]


def test_a_fault_takes_along_what_may_be_shown() -> None:
    answer = writer(Sampling(stop=("end",)))
    for text in ("one is", " two", " en"):
        answer.add(text, 0.0)
    fault = Fault(code="engine_error", message="no")
    sent, finish = answer.end(FinishReason.ERROR, 1.0, fault)
    assert sent == piece(" two ", 2)
    assert isinstance(finish, Finish)


def test_the_rest_of_a_token_that_was_sent_comes_with_the_end() -> None:
    answer = writer(Sampling(stop=("end",)))
    assert answer.add("one e", 0.0) == piece("one ")
    assert ends(answer) == [piece("e", 0)]


def test_choices_are_gathered_with_their_text() -> None:
    answer = writer()
    first, *rest = (
        SampledToken(token=token, logprob=-0.5) for token in ("a", "b", "c")
    )
    answer.add("a", 0.0, first)
    for one in rest:
        answer.add(one.token, 0.001, one)
    assert ends(answer) == [Piece(id="r", text="bc", tokens=2, choices=tuple(rest))]


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=3), st.floats(0, 0.05)), max_size=9)
)
def test_no_text_and_no_token_is_lost_or_reordered(
    said: list[tuple[str, float]],
) -> None:
    answer, now = writer(), 0.0
    sent: list[Piece] = []
    for text, pause in said:
        now += pause
        found = answer.add(text, now)
        assert answer._text_tokens < EVERY_TOKENS
        sent += [] if found is None else [found]
    sent += ends(answer)
    assert "".join(one.text for one in sent) == "".join(text for text, _ in said)
    assert sum(one.tokens for one in sent) == len(said)


def test_text_held_back_counts_with_the_piece_that_shows_it() -> None:
    answer = writer(Sampling(stop=("end",)))
    assert answer.add("e", 1.0) is None
    assert answer.add("n", 2.0) is None
    assert answer.add("joy", 3.0) == Piece(id="r", text="enjoy", tokens=3)


def test_what_was_held_back_comes_before_the_finish() -> None:
    answer = writer(Sampling(stop=("end",)), prompt=7, started=1.0)
    answer.add("en", 3.0)
    piece, finish = answer.end(FinishReason.LENGTH, 5.0, None)
    assert piece == Piece(id="r", text="en", tokens=1)
    assert isinstance(finish, Finish)
    assert (finish.first_token_s, finish.total_s) == (2.0, 4.0)
    assert (finish.usage.prompt_tokens, finish.usage.completion_tokens) == (7, 1)


def test_a_fault_comes_alone() -> None:
    answer = writer(Sampling(stop=("end",)), prompt=7, started=1.0)
    answer.add("en", 3.0)
    fault = Fault(code="engine_error", message="no")
    (finish,) = answer.end(FinishReason.ERROR, 5.0, fault)
    assert isinstance(finish, Finish)
    assert finish.fault == fault


def test_a_stop_string_before_the_least_tokens_is_text() -> None:
    answer = writer(Sampling(stop=("end",), min_tokens=2))
    answer.add("end", 1.0)
    answer.add(" is", 2.0)
    assert not answer.is_stopped
    assert answer.add(" the end", 3.0) == Piece(id="r", text=" the ", tokens=1)
    assert answer.is_stopped


def test_choices_travel_with_the_text_of_their_tokens() -> None:
    answer = writer(Sampling(stop=("end",), logprobs=0))
    choices = [SampledToken(token=token, logprob=-0.5) for token in ("en", "joy")]
    assert answer.add("en", 1.0, choices[0]) is None
    piece = answer.add("joy", 2.0, choices[1])
    assert piece is not None
    assert piece.choices == tuple(choices)


def test_tokens_of_a_stop_are_not_told_of() -> None:
    answer = writer(Sampling(stop=("end",)))
    said = ["a", "be", "nd"]
    tokens = [SampledToken(token=token, logprob=-0.5) for token in said]
    pieces = [
        answer.add(text, 1.0, token) for text, token in zip(said, tokens, strict=True)
    ]
    assert answer.is_stopped
    shown = [piece for piece in pieces if piece is not None] + ends(answer)
    assert "".join(piece.text for piece in shown) == "ab"
    told = [token for piece in shown for token in piece.choices]
    assert told == tokens[:2]


def test_a_token_is_told_of_with_its_text_and_not_before() -> None:
    answer = writer(Sampling(stop=("end",)))
    tokens = [SampledToken(token=token, logprob=-0.5) for token in ("a", "en", "joy")]
    first, held, rest = (
        answer.add(token.token, at, token) for at, token in enumerate(tokens)
    )
    assert first is not None
    assert first.choices == (tokens[0],)
    assert held is None
    assert rest is not None
    assert rest.choices == tuple(tokens[1:])


@pytest.mark.parametrize(
    ("stops", "parts", "shown"),
    [
        (("END",), ["one E", "ND two"], "one "),
        (("END",), ["E", "N", "x"], "ENx"),
        (("b", "ab"), ["xab"], "x"),
        (("aab",), ["a", "a", "a", "b", "c"], "a"),
        ((), ["any", "thing"], "anything"),
        (("",), ["an empty stop stops nothing"], "an empty stop stops nothing"),
        (("\n\n",), ["a\n", "b\n", "\nc"], "a\nb"),
    ],
)
def test_text_ends_before_the_first_stop(
    stops: tuple[str, ...], parts: list[str], shown: str
) -> None:
    stop = StopFilter(stops)
    text = "".join(stop.feed(part) for part in parts) + stop.flush()
    assert text == shown


def test_the_start_of_a_possible_stop_is_held_back() -> None:
    stop = StopFilter(("<end>",))
    assert stop.feed("hello <e") == "hello "
    assert stop.feed("gg>") == "<egg>"


WORDS = st.text(alphabet="abc", max_size=4)


@given(st.lists(WORDS, max_size=12), st.lists(WORDS, max_size=3))
def test_how_text_is_cut_into_tokens_changes_nothing(
    parts: list[str], stops: list[str]
) -> None:
    stop = StopFilter(tuple(stops))
    text = "".join(stop.feed(part) for part in parts) + stop.flush()
    whole = "".join(parts)
    at = [found for word in stops if word and (found := whole.find(word)) >= 0]
    if not at:
        assert (text, stop.hit) == (whole, False)
        return
    assert stop.hit
    assert whole.startswith(text)
    assert not any(word in text for word in stops if word)


def test_a_meter_follows_the_speed_it_sees() -> None:
    meter = ThroughputMeter()
    meter.note(10, 1.0)
    assert meter.rate == 10.0
    for _ in range(50):
        meter.note(40, 1.0)
    assert meter.rate == pytest.approx(40, rel=0.01)


def test_a_step_that_took_no_time_says_nothing() -> None:
    meter = ThroughputMeter()
    meter.note(10, 0.0)
    assert meter.rate == 0.0


@pytest.mark.parametrize(("slots", "bound"), [(1, 16), (4, 16), (16, 64)])
def test_how_many_may_wait_grows_with_the_slots(slots: int, bound: int) -> None:
    assert waiting_bound(slots) == bound


def test_statistics_tell_what_runs_and_what_waits(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", slots=2, context=64, budget=8)
    for name in "abc":
        sampling = Sampling(max_tokens=9, ignore_eos=True)
        engine.backend.submit(request_for(name, prompt="x" * 16, sampling=sampling))
    engine.step()
    stats = engine.backend.stats()
    assert (stats.slots, stats.active, stats.waiting) == (2, 2, 1)
    assert stats.peak_bytes > 0
    engine.run()
    assert engine.backend.stats().active == 0


def test_a_request_over_the_bound_is_told_the_bound(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", slots=1)
    for index in range(66):
        engine.backend.submit(request_for(f"r{index}", prompt="x"))
    engine.run()
    fault = engine.finish("r65").fault
    assert fault is not None
    assert (fault.code, fault.retryable) == ("engine_busy", True)
    assert "64 requests already wait" in fault.message
    assert engine.finish("r64").fault is None
