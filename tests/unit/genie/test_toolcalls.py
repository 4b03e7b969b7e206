"""Reading calls of tools out of answers, however they are cut into pieces."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie import toolcalls
from genie.contracts.inference import ToolCall
from genie.toolcalls import FORMATS, join_parts, read, reader_of

NOW = '{"name": "now", "arguments": {"zone": "UTC"}}'
ADD = '{"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}'


def names(format: str, text: str) -> tuple[str, list[tuple[str, object]]]:
    said, calls = read(format, "job", text)
    return said, [(one.name, json.loads(one.arguments)) for one in calls]


NOW_READ = ("now", {"zone": "UTC"})
ADD_READ = ("add", {"a": 1, "b": [2, {"c": "}"}]})


@pytest.mark.parametrize(
    ("format", "text", "said", "calls"),
    [
        ("hermes", "no call here", "no call here", []),
        ("hermes", f"<tool_call>\n{NOW}\n</tool_call>", "", [NOW_READ]),
        (
            "hermes",
            f"Let me look.\n<tool_call>\n{NOW}\n</tool_call>\n"
            f"<tool_call>\n{ADD}\n</tool_call>\n",
            "Let me look.",
            [NOW_READ, ADD_READ],
        ),
        ("hermes", f"<tool_call>{NOW}", "", [NOW_READ]),
        ("hermes", "<tool_call>{oh</tool_call>", "<tool_call>{oh</tool_call>", []),
        ("hermes", '<tool_call>{"name": "n', '<tool_call>{"name": "n', []),
        ("hermes", "a < b and <tool_", "a < b and <tool_", []),
        ("hermes", '<tool_call>{"name":"f"}</tool_call>', "", [("f", {})]),
        (
            "hermes",
            '<tool_call>{"name":"f","arguments":"{\\"a\\": 1}"}</tool_call>',
            "",
            [("f", {"a": 1})],
        ),
        ("hermes", "trailing  \n", "trailing  \n", []),
        (
            "llama3",
            '{"name": "now", "parameters": {"zone": "UTC"}}',
            "",
            [NOW_READ],
        ),
        ("llama3", f"{NOW}; {ADD}", "", [NOW_READ, ADD_READ]),
        ("llama3", 'It is {"name": "x"}', 'It is {"name": "x"}', []),
        ("llama3", '{"answer": 42}', '{"answer": 42}', []),
        ("llama3", '{"name": "now", "par', '{"name": "now", "par', []),
        ("mistral", f"[TOOL_CALLS] [{NOW}, {ADD}]", "", [NOW_READ, ADD_READ]),
        ("mistral", f"Sure. [TOOL_CALLS][{NOW}]", "Sure.", [NOW_READ]),
        ("mistral", "[TOOL_CALLS] nothing", "[TOOL_CALLS] nothing", []),
        ("mistral", "[TOOL", "[TOOL", []),
    ],
)
def test_calls_are_read_and_what_is_no_call_stays_text(
    format: str, text: str, said: str, calls: list[tuple[str, object]]
) -> None:
    assert names(format, text) == (said, calls)


def pieces(text: str, cuts: list[int]) -> list[str]:
    at = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(at)]


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<tool", "_call>", "[TOOL_"),
        *(NOW, ADD, f"[{NOW}]", "{", "}", ";", " ", "\n", "text", '{"name": 3}', "ü"),
    ]
)


@given(
    st.sampled_from(FORMATS),
    st.lists(FRAGMENTS, max_size=12).map("".join),
    st.lists(st.integers(0, 1000), max_size=12),
)
def test_pieces_give_what_the_whole_gives(
    format: str, text: str, cuts: list[int]
) -> None:
    reader = reader_of(format, "job")
    parts = [part for piece in pieces(text, cuts) for part in reader.feed(piece)]
    parts += reader.end()
    assert join_parts(parts) == read(format, "job", text)


@given(st.sampled_from(FORMATS), st.text(max_size=60))
def test_text_without_marks_passes_unchanged(format: str, text: str) -> None:
    if "{" in text or "<" in text or "[" in text:
        return
    assert read(format, "job", text) == (text, ())


def test_text_is_told_as_soon_as_it_can_be_no_call() -> None:
    reader = reader_of("hermes", "job")
    assert reader.feed("Hello <to") == ["Hello"]
    assert reader.feed("day>") == [" <today>"]


def test_a_call_is_told_the_moment_it_is_whole() -> None:
    reader = reader_of("hermes", "job")
    assert reader.feed(f"<tool_call>{NOW}</tool_cal") == []
    (call,) = reader.feed("l>")
    assert isinstance(call, ToolCall)


def test_ids_are_the_same_each_time_and_differ_within_an_answer() -> None:
    text = f"<tool_call>{NOW}</tool_call><tool_call>{NOW}</tool_call>"
    first, second = read("hermes", "job", text)[1]
    assert first.id != second.id
    assert read("hermes", "job", text)[1] == (first, second)
    assert read("hermes", "other", text)[1][0].id != first.id
    assert len(first.id) == toolcalls.ID_LENGTH
    assert first.id.isalnum()


def test_deep_nesting_is_text_not_a_crash() -> None:
    deep = "<tool_call>" + "[" * 100_000 + "</tool_call>"
    assert read("hermes", "job", deep) == (deep, ())


@pytest.mark.parametrize("format", ["hermes", "llama3", "mistral"])
def test_calls_beyond_those_that_are_wanted_are_not_told(format: str) -> None:
    text = {
        "hermes": f"<tool_call>{NOW}</tool_call> <tool_call>{ADD}</tool_call>",
        "llama3": f"{NOW}; {ADD}",
        "mistral": f"[TOOL_CALLS][{NOW}, {ADD}]",
    }[format]
    reader = reader_of(format, "job", most=1)
    said, calls = join_parts([*reader.feed(text), *reader.end()])
    assert (said, [one.name for one in calls]) == ("", ["now"])
