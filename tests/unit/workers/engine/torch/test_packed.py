"""The packed step loop against the models' own ``generate()``."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from fixtures.tiny import EXTRAS, MORE
from genie.contracts.inference import FinishReason, Sampling
from workers.engine.protocol import Piece
from workers.engine.torch import layout, packed

KINDS = [*EXTRAS, *MORE]
PROMPTS = [
    "a",
    "Once upon a time there was a fleet of small machines.",
    "xyz " * 25,
    "The quick brown fox",
    "0123456789" * 12,
    "naïve café ☕",
]

Make = Callable[..., Any]


def expected(bench: Any, prompt: str, tokens: int) -> list[int]:
    """What ``generate()`` answers, greedily, without its end token."""
    ids = bench.prompts.plain(prompt)
    model = bench.tiny.reference
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
    )
    answer = [int(token) for token in out[0, len(ids) :]]
    return answer[: answer.index(257)] if 257 in answer else answer


def expected_ignoring_end(bench: Any, prompt: str, tokens: int) -> list[int]:
    """The same as if the end token were an ordinary one."""
    ids = bench.prompts.plain(prompt)
    out = bench.tiny.reference.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=-1,
    )
    return [int(token) for token in out[0, len(ids) :]]


@pytest.mark.parametrize("kind", list(EXTRAS))
def test_greedy_answers_are_those_of_generate(
    bench: Make, request_for: Make, kind: str
) -> None:
    engine = bench(kind, slots=3, budget=16)
    chosen = capture(engine)
    for index, prompt in enumerate(PROMPTS):
        sampling = Sampling(max_tokens=5 + 3 * index)
        engine.backend.submit(
            request_for(f"r{index}", prompt=prompt, sampling=sampling)
        )
    engine.run()
    for index, prompt in enumerate(PROMPTS):
        wanted = expected(engine, prompt, 5 + 3 * index)
        assert chosen[f"r{index}"] == wanted
        assert engine.finish(f"r{index}").fault is None


def test_cancels_and_arrivals_do_not_change_the_answers_of_others(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", slots=3, budget=8)
    chosen = capture(engine)
    for index in range(12):
        prompt = PROMPTS[index % len(PROMPTS)]
        sampling = Sampling(max_tokens=12)
        engine.backend.submit(
            request_for(f"r{index}", prompt=prompt, sampling=sampling)
        )
        engine.step()
        if index % 3 == 0:
            engine.backend.cancel(f"r{index}")
    engine.run()
    for index in range(12):
        if index % 3 == 0:
            assert engine.finish(f"r{index}").reason is FinishReason.CANCELLED
        else:
            prompt = PROMPTS[index % len(PROMPTS)]
            assert chosen[f"r{index}"] == expected(engine, prompt, 12)


@pytest.mark.parametrize("call_keys", [0, 250])
# All groups share keys; then windows; windows and soft caps; windows and sinks.
@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gpt_oss"])
def test_slots_read_apart_are_read_right(
    bench: Make,
    request_for: Make,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    call_keys: int,
) -> None:
    seen: list[Any] = []

    plain = layout.spans

    def cut(slots: Any, lengths: Any, _: int) -> Any:
        seen.append(plain(slots, lengths, call_keys))
        return seen[-1]

    monkeypatch.setattr(layout, "spans", cut)
    # On a GPU too: this is what serves where no kernel of ours can be compiled.
    monkeypatch.setattr(packed, "has_kernel", lambda _: False)
    engine = bench(kind, slots=6, budget=24)
    chosen = capture(engine)
    for index, prompt in enumerate(PROMPTS):
        sampling = Sampling(max_tokens=9 + index)
        engine.backend.submit(
            request_for(f"r{index}", prompt=prompt, sampling=sampling)
        )
    engine.step()
    engine.backend.cancel("r1")  # leaves a slot that does not decode between others
    engine.run()
    for index in (0, 2, 3, 4, 5):
        wanted = expected(engine, PROMPTS[index], 9 + index)
        assert chosen[f"r{index}"] == wanted
    if call_keys:
        assert any(span.has_gaps for one in seen for span in one)
    else:
        assert max(len(one) for one in seen) > 1


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_resumed_answer_is_the_undisturbed_one(
    bench: Make, request_for: Make, cut: int
) -> None:
    engine = bench("llama")
    letters = {str(engine.prompts.plain(one)[-1]): 60.0 for one in "abcdefgh"}
    sampling = Sampling(max_tokens=12, ignore_eos=True, logit_bias=letters)
    asked = request_for("whole", prompt=PROMPTS[1], sampling=sampling)
    whole, end = engine.answer(asked)
    given = whole[:cut]
    again = msgspec.structs.replace(asked, id="rest", resume=given)
    rest, finish = engine.answer(again)
    assert len(whole) == 12  # letters alone: text and tokens say the same
    assert given + rest == whole
    assert finish.usage.prompt_tokens == end.usage.prompt_tokens
    assert finish.usage.completion_tokens == 12


PERSONA = "You are a careful keeper of lighthouses; answer in one line. "


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_that_begin_alike_are_answered_as_if_alone(
    bench: Make, request_for: Make, kind: str
) -> None:
    engine = bench(kind, slots=3, budget=24)
    chosen = capture(engine)
    prompts = [PERSONA + PROMPTS[index % len(PROMPTS)] for index in range(9)]
    sampling = Sampling(max_tokens=10)
    for index, prompt in enumerate(prompts):
        name = f"r{index}"
        engine.backend.submit(request_for(name, prompt=prompt, sampling=sampling))
        if index == 4:
            engine.run()
        if index == 7:
            engine.step()
            engine.backend.cancel("r6")
    engine.run()
    for index, prompt in enumerate(prompts):
        if index != 6:
            assert chosen[f"r{index}"] == expected(engine, prompt, 10)
    cached = [engine.finish(f"r{at}").usage.cached_tokens for at in range(9)]
    assert cached[0] == 0
    # The second waited for the first to compute what both begin with.
    assert all(count >= len(PERSONA) for at, count in enumerate(cached) if at > 0)


def test_a_conversation_goes_on_where_it_was(bench: Make, request_for: Make) -> None:
    engine = bench("llama")
    chosen = capture(engine)
    sampling = Sampling(max_tokens=12, ignore_eos=True)
    first = request_for("a", prompt=PERSONA, sampling=sampling)
    engine.answer(first)
    turn = PERSONA + "and then"
    _, finish = engine.answer(request_for("b", prompt=turn, sampling=sampling))
    assert finish.usage.cached_tokens == len(PERSONA)
    assert chosen["b"][:12] == expected_ignoring_end(engine, turn, 12)


def test_nothing_is_reused_across_scopes(bench: Make, request_for: Make) -> None:
    engine = bench("llama", slots=3)
    for index, scope in enumerate(["acme", "globex", "acme"]):
        request = request_for(f"r{index}", prompt=PERSONA)
        engine.answer(msgspec.structs.replace(request, scope=scope))
    cached = [engine.finish(f"r{at}").usage.cached_tokens for at in range(3)]
    assert cached == [0, 0, len(PERSONA) - 1]


def test_many_choices_of_one_prompt_compute_it_once(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", slots=4)
    chosen = capture(engine)
    for index in range(4):
        hot = Sampling(max_tokens=12, temperature=2.0, seed=index)
        request = request_for(f"c{index}", prompt=PERSONA, sampling=hot)
        engine.backend.submit(request)
    engine.run()
    cached = [engine.finish(f"c{at}").usage.cached_tokens for at in range(4)]
    assert sorted(cached) == [0, *[len(PERSONA) - 1] * 3]
    assert len({tuple(tokens) for tokens in chosen.values()}) == 4


def test_a_failed_request_leaves_nothing_to_build_on(
    bench: Make, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bench("llama", slots=1)
    runner = engine.backend._runner
    whole = runner.forward
    monkeypatch.setattr(runner, "forward", lambda *said: whole(*said) * torch.nan)
    engine.answer(request_for("bad", prompt=PERSONA))
    monkeypatch.setattr(runner, "forward", whole)
    chosen = capture(engine)
    _, finish = engine.answer(request_for("good", prompt=PERSONA))
    assert engine.finish("bad").fault is not None
    assert finish.usage.cached_tokens == 0
    assert chosen["good"] == expected(engine, PERSONA, 8)


def test_the_text_is_that_of_the_tokens(bench: Make, request_for: Make) -> None:
    engine = bench("llama")
    chosen = capture(engine)
    sampling = Sampling(max_tokens=24)
    text, finish = engine.answer(request_for(prompt="hello", sampling=sampling))
    whole = engine.prompts.tokenizer.decode(chosen["r"], skip_special_tokens=True)
    # Bytes of an unfinished character at the very end are not text yet.
    assert whole.rstrip("\ufffd").startswith(text.rstrip("\ufffd"))
    assert finish.usage.completion_tokens == len(chosen["r"])
    assert finish.usage.prompt_tokens == 5


def test_the_same_seed_gives_the_same_answer_in_any_company(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", slots=4)
    sampling = Sampling(max_tokens=16, temperature=1.5, seed=11)
    alone, _ = engine.answer(request_for("a", prompt="hello", sampling=sampling))
    for index in range(3):
        hot = Sampling(max_tokens=16, temperature=1.5, seed=index)
        engine.backend.submit(request_for(f"n{index}", prompt="other", sampling=hot))
    again, _ = engine.answer(request_for("b", prompt="hello", sampling=sampling))
    assert again == alone


def test_an_answer_ends_at_its_stop_string(bench: Make, request_for: Make) -> None:
    engine = bench("llama")
    sampling = Sampling(max_tokens=40, ignore_eos=True)
    whole, _ = engine.answer(request_for("a", prompt="stop", sampling=sampling))
    pairs = [whole[at : at + 2] for at in range(3, len(whole) - 1)]
    stop = next(pair for pair in pairs if "\ufffd" not in pair)
    stopped = Sampling(max_tokens=40, ignore_eos=True, stop=(stop,))
    text, finish = engine.answer(request_for("b", prompt="stop", sampling=stopped))
    assert text == whole[: whole.index(stop)]
    assert finish.reason is FinishReason.STOP


def test_the_models_own_end_token_ends_an_answer(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama")
    biased = Sampling(max_tokens=9, logit_bias={"257": 1000.0})
    text, finish = engine.answer(request_for("a", prompt="x", sampling=biased))
    assert (text, finish.reason) == ("", FinishReason.STOP)
    ignoring = Sampling(max_tokens=9, logit_bias={"257": 1000.0}, ignore_eos=True)
    _, finish = engine.answer(request_for("b", prompt="x", sampling=ignoring))
    assert finish.reason is FinishReason.LENGTH
    assert finish.usage.completion_tokens == 9


def test_an_answer_has_its_least_tokens(bench: Make, request_for: Make) -> None:
    engine = bench("llama")
    wanted = Sampling(max_tokens=9, min_tokens=5, logit_bias={"257": 1000.0})
    _, finish = engine.answer(request_for("a", prompt="x", sampling=wanted))
    # The end token itself is counted, as it is by OpenAI.
    assert (finish.reason, finish.usage.completion_tokens) == (FinishReason.STOP, 6)


@torch.no_grad()
def test_logprobs_are_those_of_the_models_own_logits(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama")
    chosen = capture(engine)
    sampling = Sampling(max_tokens=6, logprobs=3, temperature=1.3, seed=5)
    engine.answer(request_for("a", prompt="hello", sampling=sampling))
    pieces = [one for one in engine.events["a"] if isinstance(one, Piece)]
    choices = [choice for piece in pieces for choice in piece.choices]
    ids = engine.prompts.plain("hello") + chosen["a"]
    logits = engine.tiny.reference(torch.tensor([ids])).logits[0, 4:-1]
    wanted = torch.log_softmax(logits, dim=-1)
    for row, choice in enumerate(choices):
        assert choice.logprob == pytest.approx(
            float(wanted[row, chosen["a"][row]]), abs=1e-3
        )
        best = wanted[row].topk(3)
        assert [one.token for one in choice.rivals] == [
            engine.prompts.shown(token) for token in best.indices.tolist()
        ]
        assert [one.logprob for one in choice.rivals] == pytest.approx(
            best.values.tolist(), abs=1e-3
        )
    assert len(choices) == len(chosen["a"])


def test_seeds_hold_through_reuse_cancels_and_crowds(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", slots=3, budget=16)
    chosen = capture(engine)
    hot = [
        Sampling(max_tokens=10, temperature=1.5, top_p=0.9, seed=seed)
        for seed in range(6)
    ]
    for index, sampling in enumerate(hot):
        prompt = PERSONA + PROMPTS[index]
        engine.answer(request_for(f"alone{index}", prompt=prompt, sampling=sampling))
    for index, sampling in reversed(list(enumerate(hot))):
        prompt = PERSONA + PROMPTS[index]
        name = f"crowd{index}"
        engine.backend.submit(request_for(name, prompt=prompt, sampling=sampling))
        engine.backend.submit(request_for(f"noise{index}", prompt=PERSONA * 2))
        engine.step()
        engine.backend.cancel(f"noise{index}")
    engine.run()
    for index in range(6):
        assert chosen[f"crowd{index}"] == chosen[f"alone{index}"]


def test_a_failed_forward_fails_only_its_culprit(
    bench: Make, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bench("llama", slots=4)
    whole = engine.model.forward

    def forward(*, input_ids: Tensor, **rest: Any) -> Any:
        if (input_ids == engine.prompts.plain("!")[0]).any():
            raise RuntimeError("shape mismatch")
        return whole(input_ids=input_ids, **rest)

    monkeypatch.setattr(engine.model, "forward", forward)
    chosen = capture(engine)
    good = PROMPTS[1]
    for name, prompt in (("a", good), ("bad", "oh!"), ("c", good)):
        sampling = Sampling(max_tokens=6)
        engine.backend.submit(request_for(name, prompt=prompt, sampling=sampling))
    engine.run()
    fault = engine.finish("bad").fault
    assert fault is not None
    assert fault.code == "engine_error"
    assert chosen["a"] == chosen["c"] == expected(engine, good, 6)
    assert engine.backend.stats().active == 0


def capture(engine: Any) -> dict[str, list[int]]:
    """The token ids of every answer from here on, end tokens left out."""
    kept: dict[str, list[int]] = {}
    forget = engine.backend.forget

    def remember(request_id: str) -> None:
        running = engine.backend._requests.get(request_id)
        if running is not None:
            kept[request_id] = running.sampler.produced
        forget(request_id)

    engine.backend.forget = remember
    return kept
