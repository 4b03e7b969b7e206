"""Stop strings across the borders of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.child.backend import StopFilter


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
