"""An answer that changes its worker reads as one answer, or says that it cannot."""

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.jobs.stream import AnswerResumer, BrokenAnswer
from genie.contracts.inference import Chunk, FinishReason, PartialAnswer, SampledToken


def chunk(attempt: str, seq: int, text: str) -> Chunk:
    return Chunk(job_id="j", attempt_id=attempt, seq=seq, text=text, tokens=1)


def rest(splice: AnswerResumer, text: str) -> str:
    return splice.rest(PartialAnswer(text=text)).text


def test_one_attempt_is_given_as_it_comes() -> None:
    splice = AnswerResumer()
    given_texts = [
        splice.take(chunk("a", n, t)).text for n, t in enumerate(["x", "y", "z"])
    ]
    assert given_texts == ["x", "y", "z"]
    assert rest(splice, "xyz!") == "!"


def test_a_second_attempt_repeats_nothing_that_was_given() -> None:
    splice = AnswerResumer()
    assert splice.take(chunk("a", 0, "one two")).text == "one two"
    assert splice.take(chunk("b", 0, "one")).text == ""
    assert splice.take(chunk("b", 1, " two three")).text == " three"
    assert splice.given[0].text == "one two three"


def test_chunks_of_an_attempt_that_was_replaced_are_ignored() -> None:
    splice = AnswerResumer()
    splice.take(chunk("a", 0, "one "))
    splice.begin("b")
    assert splice.take(chunk("a", 1, "late")).text == ""
    assert splice.take(chunk("b", 0, "one two")).text == "two"


def test_a_second_attempt_that_says_something_else_breaks_the_answer() -> None:
    splice = AnswerResumer()
    splice.take(chunk("a", 0, "one two"))
    with pytest.raises(BrokenAnswer, match="another answer"):
        splice.take(chunk("b", 0, "two"))


def test_an_attempt_that_goes_on_is_given_from_there() -> None:
    splice = AnswerResumer()
    splice.take(chunk("a", 0, "one two"))
    splice.begin("b")
    splice.begin("c", resumed=[len("one two")])
    assert splice.take(chunk("b", 0, "other")).text == ""
    assert splice.take(chunk("c", 0, " three")).text == " three"
    assert rest(splice, "one two three!") == "!"


def test_a_lost_chunk_breaks_the_answer() -> None:
    splice = AnswerResumer()
    splice.take(chunk("a", 0, "one"))
    with pytest.raises(BrokenAnswer, match="chunk 1 of the answer was lost"):
        splice.take(chunk("a", 2, "three"))


def test_a_chunk_that_was_sent_twice_is_given_once() -> None:
    splice = AnswerResumer()
    seqs = (0, 0, 1, 0, 1, 2)
    assert [splice.take(chunk("a", n, "xyz"[n])).text for n in seqs] == [
        "x",
        "",
        "y",
        "",
        "",
        "z",
    ]


def test_a_final_text_that_differs_breaks_the_answer() -> None:
    splice = AnswerResumer()
    splice.take(chunk("a", 0, "one"))
    with pytest.raises(BrokenAnswer):
        rest(splice, "two")


@given(
    text=st.text(min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    seed=st.integers(0, 10),
)
def test_any_number_of_deaths_gives_the_text_once(
    text: str, cuts: list[int], seed: int
) -> None:
    splice, told = AnswerResumer(), ""
    for number, cut in enumerate([*cuts, len(text)]):
        step = 1 + (seed + number) % 5
        pieces = [text[at : min(at + step, cut)] for at in range(0, cut, step)]
        for seq, piece in enumerate(pieces):
            told += splice.take(chunk(str(number), seq, piece)).text
    assert told + rest(splice, text) == text


def test_several_answers_are_told_apart_and_each_ends_once() -> None:
    splice = AnswerResumer()
    splice.take(several("a", 0, 0, "one"))
    splice.take(several("a", 1, 1, "uno", FinishReason.STOP))

    again = [
        splice.take(several("b", 0, 1, "uno", FinishReason.STOP)),
        splice.take(several("b", 1, 0, "one two")),
    ]

    assert [one.text for one in again] == ["", " two"]
    assert [one.finish_reason for one in again] == [None, None]
    assert [one.text for one in splice.given] == ["one two", "uno"]
    assert splice.given[1].finish_reason is FinishReason.STOP


def test_each_answer_goes_on_after_its_own_text() -> None:
    splice = AnswerResumer()
    splice.take(several("a", 0, 0, "one"))
    splice.take(several("a", 1, 1, "uno dos"))
    splice.begin("b", resumed=[3, 7])
    assert splice.take(several("b", 0, 1, " tres")).text == " tres"
    assert splice.take(several("b", 1, 0, " two")).text == " two"


def test_what_is_told_of_tokens_is_told_once() -> None:
    splice = AnswerResumer()
    tokens = [SampledToken(token=t, logprob=-1.0) for t in ("a", "b", "c")]
    first = msgspec.structs.replace(chunk("a", 0, "ab"), choices=tuple(tokens[:2]))
    second = msgspec.structs.replace(chunk("b", 0, "abc"), choices=tuple(tokens))
    assert splice.take(first).choices == tuple(tokens[:2])
    assert splice.take(second).choices == (tokens[2],)
    assert splice.rest(PartialAnswer(text="abc", choices=tuple(tokens))).choices == ()


def several(
    attempt: str, seq: int, index: int, text: str, end: FinishReason | None = None
) -> Chunk:
    plain = chunk(attempt, seq, text)
    return msgspec.structs.replace(plain, index=index, finish_reason=end)


def test_a_piece_of_a_long_answer_costs_what_the_piece_holds() -> None:
    splice = AnswerResumer()
    piece = "x" * 8_000
    tracemalloc.start()
    try:
        for seq in range(500):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            splice.take(chunk("a", seq, piece))
            peak = tracemalloc.get_traced_memory()[1]
            assert peak - before < 10 * len(piece)  # not the four million so far
    finally:
        tracemalloc.stop()
    assert len(splice.given[0].text) == 500 * len(piece)
