"""An answer that changes its worker reads as one answer, or says that it cannot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.asking import BrokenAnswer, Splice
from genie.contracts.inference import Chunk


def chunk(attempt: str, seq: int, text: str) -> Chunk:
    return Chunk(job_id="j", attempt_id=attempt, seq=seq, text=text, tokens=1)


def test_one_attempt_is_given_as_it_comes() -> None:
    splice = Splice()
    given_texts = [splice.take(chunk("a", n, t)) for n, t in enumerate(["x", "y", "z"])]
    assert given_texts == ["x", "y", "z"]
    assert splice.rest("xyz!") == "!"


def test_a_second_attempt_repeats_nothing_that_was_given() -> None:
    splice = Splice()
    assert splice.take(chunk("a", 0, "one two")) == "one two"
    assert splice.take(chunk("b", 0, "one")) == ""
    assert splice.take(chunk("b", 1, " two three")) == " three"
    assert splice.given == "one two three"


def test_chunks_of_an_attempt_that_was_replaced_are_ignored() -> None:
    splice = Splice()
    splice.take(chunk("a", 0, "one "))
    splice.begin("b")
    assert splice.take(chunk("a", 1, "late")) == ""
    assert splice.take(chunk("b", 0, "one two")) == "two"


def test_a_second_attempt_that_says_something_else_breaks_the_answer() -> None:
    splice = Splice()
    splice.take(chunk("a", 0, "one two"))
    with pytest.raises(BrokenAnswer, match="another answer"):
        splice.take(chunk("b", 0, "two"))


def test_an_attempt_that_goes_on_is_given_from_there() -> None:
    splice = Splice()
    splice.take(chunk("a", 0, "one two"))
    splice.begin("b")
    splice.begin("c", resumed=len("one two"))
    assert splice.take(chunk("b", 0, "other")) == ""
    assert splice.take(chunk("c", 0, " three")) == " three"
    assert splice.rest("one two three!") == "!"


def test_a_lost_chunk_breaks_the_answer() -> None:
    splice = Splice()
    splice.take(chunk("a", 0, "one"))
    with pytest.raises(BrokenAnswer, match="chunk 1 of the answer was lost"):
        splice.take(chunk("a", 2, "three"))


def test_a_final_text_that_differs_breaks_the_answer() -> None:
    splice = Splice()
    splice.take(chunk("a", 0, "one"))
    with pytest.raises(BrokenAnswer):
        splice.rest("two")


@given(
    text=st.text(min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    seed=st.integers(0, 10),
)
def test_any_number_of_deaths_gives_the_text_once(
    text: str, cuts: list[int], seed: int
) -> None:
    splice, told = Splice(), ""
    for number, cut in enumerate([*cuts, len(text)]):
        step = 1 + (seed + number) % 5
        pieces = [text[at : min(at + step, cut)] for at in range(0, cut, step)]
        for seq, piece in enumerate(pieces):
            told += splice.take(chunk(str(number), seq, piece))
    assert told + splice.rest(text) == text
