"""What a question looks like on the wire."""

from typing import Any, cast

import pytest

from genie.contracts.inference import Message
from genie.errors import BadRequest
from genie.sdk.chat import AskOptions, chat_body


def test_a_plain_question_goes_to_the_chat_persona() -> None:
    assert chat_body("hi", {}, mode="sync") == {
        "messages": [{"role": "user", "content": "hi"}],
        "mode": "sync",
        "persona": "chat",
    }


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({"persona": "review"}, {"persona": "review"}),
        ({"model": "qwen3:14b"}, {"model": "qwen3:14b"}),
        (
            {"model": "qwen3:14b", "persona": "review"},
            {"model": "qwen3:14b", "persona": "review"},
        ),
    ],
)
def test_a_model_or_persona_is_sent_as_given(
    options: AskOptions, target: dict[str, str]
) -> None:
    chat = chat_body("hi", options, mode="sync")
    assert {name: chat[name] for name in ("model", "persona") if name in chat} == target


def test_system_comes_first_and_the_prompt_last() -> None:
    earlier = (Message(role="user", content="a"), {"role": "assistant", "content": "b"})
    chat = chat_body("c", {"system": "s", "messages": earlier}, mode="sync")
    assert chat["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_the_name_of_a_message_is_kept() -> None:
    named = Message(role="user", content="a", name="ada")
    chat = chat_body(None, {"messages": [named]}, mode="sync")
    assert chat["messages"] == [{"role": "user", "content": "a", "name": "ada"}]


def test_only_what_was_given_is_sent() -> None:
    options: AskOptions = {
        "max_tokens": 8,
        "temperature": 0.0,
        "seed": None,
        "timeout": 5.0,
        "label": "night",
        "metadata": {"team": "a"},
    }
    chat = chat_body("hi", options, mode="async")
    assert chat["max_tokens"] == 8
    assert chat["temperature"] == 0.0
    assert chat["deadline_s"] == 5.0
    assert chat["label"] == "night"
    assert chat["metadata"] == {"team": "a"}
    assert "seed" not in chat


@pytest.mark.parametrize(("stop", "sent"), [("END", ["END"]), (("a", "b"), ["a", "b"])])
def test_one_stop_text_or_many_is_a_list(stop: Any, sent: list[str]) -> None:
    assert chat_body("hi", {"stop": stop}, mode="sync")["stop"] == sent


def test_a_stream_asks_for_its_usage() -> None:
    assert chat_body("hi", {}, mode="stream")["stream_options"] == {
        "include_usage": True
    }


@pytest.mark.parametrize("options", [{}, {"system": "s"}, {"messages": []}])
def test_a_question_without_text_is_refused(options: AskOptions) -> None:
    with pytest.raises(BadRequest, match="nothing to answer") as caught:
        chat_body("", options, mode="sync")
    assert caught.value.param == "messages"


def test_a_misspelt_option_is_named() -> None:
    wrong = cast(AskOptions, {"temprature": 1.0})
    with pytest.raises(
        TypeError, match=r"no option 'temprature'; the options are: .*temperature"
    ):
        chat_body("hi", wrong, mode="sync")
