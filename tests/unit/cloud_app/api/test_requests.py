from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cloud_app.api import errors
from cloud_app.api.requests import ChatRequest, CompletionRequest
from genie.contracts.inference import Sampling

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted({*ChatRequest.model_fields, "nonsense"}))
BODY = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


@given(FIELDS, JSON)
def test_any_value_in_any_field_is_taken_or_refused_by_name(
    field: str, value: object
) -> None:
    try:
        ChatRequest.model_validate({**BODY, field: value})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        named = errors.path(first) or ""
        assert named.startswith((field, "model", "mode"))


def test_only_what_was_given_is_sampling() -> None:
    shape = ChatRequest.model_validate({**BODY, "top_p": 0.5, "temperature": None})

    assert shape.sampling() == {"top_p": 0.5}


def test_every_sampling_field_is_one_of_the_contract() -> None:
    every = {
        "max_tokens": 5,
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "seed": -1,
        "stop": ["a"],
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.1,
        "logit_bias": {"1": 2},
        "ignore_eos": True,
        "min_tokens": 2,
    }
    shape = CompletionRequest.model_validate({"model": "m", "prompt": "p", **every})

    # Log probabilities have no way back to the asker yet: asking for them is a 400.
    contract = set(Sampling.__struct_fields__) - {"logprobs"}
    assert set(shape.sampling()) == set(every) == contract


@pytest.mark.parametrize(
    ("fields", "way"),
    [
        ({}, "sync"),
        ({"stream": False}, "sync"),
        ({"stream": True}, "stream"),
        ({"mode": "stream"}, "stream"),
        ({"mode": "stream", "stream": True}, "stream"),
        ({"mode": "async"}, "async"),
        ({"mode": "async", "stream": False}, "async"),
    ],
)
def test_stream_true_is_the_same_as_mode_stream(
    fields: dict[str, object], way: str
) -> None:
    assert ChatRequest.model_validate({**BODY, **fields}).way == way


def test_one_prompt_may_come_in_a_list() -> None:
    body = {"model": "m", "prompt": ["once"]}
    assert CompletionRequest.model_validate(body).prompt == "once"


@pytest.mark.parametrize(
    ("prompt", "said"), [(["a", "b"], "one text"), ([1, 2], "token ids"), ([], "one")]
)
def test_many_prompts_and_token_ids_are_refused_with_the_way_out(
    prompt: object, said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        CompletionRequest.model_validate({"model": "m", "prompt": prompt})


def test_the_smallest_nucleus_is_taken() -> None:
    shape = ChatRequest.model_validate({**BODY, "top_p": 0})
    assert shape.sampling() == {"top_p": 0}
