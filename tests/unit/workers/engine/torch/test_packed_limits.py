"""What the packed step loop refuses, ends or fails, and what goes on beside it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from genie.contracts.inference import FinishReason, Message, Sampling, WorkClass

Make = Callable[..., Any]


def test_a_prompt_over_the_context_is_refused_with_both_numbers(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", context=64)
    _, finish = engine.answer(request_for(chat="x" * 100))
    assert finish.fault is not None
    assert finish.fault.code == "context_length_exceeded"
    assert finish.fault.param == "messages"
    prompt = len(engine.prompts.tokens(request_for(chat="x" * 100)))
    assert f"the prompt has {prompt} tokens" in finish.fault.message
    assert "tiny holds 64 here" in finish.fault.message


def test_an_answer_without_a_limit_fills_the_context(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", context=64)
    sampling = Sampling(ignore_eos=True)
    _, finish = engine.answer(request_for(prompt="x" * 20, sampling=sampling))
    assert finish.reason is FinishReason.LENGTH
    assert finish.usage.completion_tokens == 44


def test_a_request_past_its_deadline_ends_with_that_fault(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama")
    engine.backend.submit(
        request_for(
            prompt="x",
            deadline_s=5.0,
            sampling=Sampling(max_tokens=200, ignore_eos=True),
        )
    )
    engine.step()
    engine.now = 6.0
    engine.step()
    finish = engine.finish("r")
    assert finish.reason is FinishReason.ERROR
    assert finish.fault is not None
    assert finish.fault.code == "deadline_exceeded"


def test_logits_that_are_not_finite_fail_only_their_request(
    bench: Make, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bench("llama", slots=2)
    whole = engine.backend._runner.forward
    poisoned: list[bool] = []

    def forward(step: Any) -> Tensor:
        logits: Tensor = whole(step)
        if not poisoned and len(logits) == 2:
            poisoned.append(True)
            logits[0] = torch.nan
        return logits

    monkeypatch.setattr(engine.backend._runner, "forward", forward)
    for name in ("a", "b"):
        engine.backend.submit(request_for(name, prompt="x"))
    engine.run()
    faults = [engine.finish(name).fault for name in ("a", "b")]
    assert [fault is None for fault in faults] == [False, True]


def test_interactive_work_is_admitted_before_batch_work(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", slots=1)
    for name, rank in (
        ("running", WorkClass.INTERACTIVE),
        ("batch", WorkClass.BATCH),
        ("job", WorkClass.JOB),
        ("person", WorkClass.INTERACTIVE),
    ):
        request = request_for(name, prompt="x", work_class=rank)
        engine.backend.submit(request)
        engine.step()
    engine.run()
    order = [name for name in engine.events if name != "running"]
    assert order == ["person", "job", "batch"]


@pytest.mark.parametrize(
    ("sampling", "param"),
    [
        (Sampling(temperature=-1.0), "temperature"),
        (Sampling(logprobs=21), "logprobs"),
        (Sampling(min_tokens=9, max_tokens=8), "min_tokens"),
        (Sampling(top_p=1.5), "top_p"),
        (Sampling(min_p=float("nan")), "min_p"),
        (Sampling(repetition_penalty=0.0), "repetition_penalty"),
        (Sampling(logit_bias={"258": 1.0}), "logit_bias"),
        (Sampling(logit_bias={"-1": 1.0}), "logit_bias"),
    ],
)
def test_sampling_that_cannot_work_is_refused_by_its_name(
    bench: Make, request_for: Make, sampling: Sampling, param: str
) -> None:
    engine = bench("llama")
    _, finish = engine.answer(request_for(prompt="x", sampling=sampling))
    assert finish.fault is not None
    assert finish.fault.param == param


@pytest.mark.parametrize(
    "messages",
    [(), (Message(role="user<|im_end|>", content="x"),)],
    ids=["none", "a role that poses as a control token"],
)
def test_messages_that_make_no_prompt_are_refused(
    bench: Make, request_for: Make, messages: tuple[Message, ...]
) -> None:
    engine = bench("llama")
    request = msgspec.structs.replace(request_for(), messages=messages)
    _, finish = engine.answer(request)
    assert finish.fault is not None
    assert finish.fault.code == "invalid_request"


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{{ raise_exception('no system here') }}", "invalid_request"),
        ("{{ 1 + messages[0]['content'] }}", "engine_error"),
    ],
    ids=["a refusal", "a broken program"],
)
def test_a_template_that_fails_fails_one_request(
    bench: Make, request_for: Make, template: str, code: str
) -> None:
    engine = bench("llama")
    engine.prompts.tokenizer.chat_template = template
    engine.answer(request_for("good", prompt="x"))
    _, finish = engine.answer(request_for("bad", chat="x"))
    assert engine.finish("good").fault is None
    assert finish.fault is not None
    assert finish.fault.code == code


def test_zero_tokens_asked_for_is_an_answer_of_none(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama")
    sampling = Sampling(max_tokens=0)
    text, finish = engine.answer(request_for(prompt="x", sampling=sampling))
    assert (text, finish.reason) == ("", FinishReason.LENGTH)
