"""Choosing one token from logits."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genie.contracts.inference import Sampling
from workers.engine.torch.sampler import Sampler, pick_together, sampler_of

CPU = torch.device("cpu")
LOGITS = torch.tensor([1.0, 4.0, 3.0, -2.0, 3.9])


def sampler(prompt: list[int] | None = None, **said: Any) -> Sampler:
    sampling = Sampling(**said)
    return sampler_of(sampling, prompt or [], vocabulary=5, device=CPU)


def seen(one: Sampler, logits: Tensor, times: int = 200) -> set[int]:
    return {one.pick(logits) for _ in range(times)}


def test_temperature_zero_takes_the_likeliest() -> None:
    assert sampler(temperature=0.0).pick(LOGITS) == 1


@pytest.mark.parametrize(
    ("said", "possible"),
    [
        ({"top_k": 2}, {1, 4}),
        ({"top_k": 1}, {1}),
        ({"top_p": 0.0}, {1}),
        ({"top_p": 0.5}, {1, 4}),
        ({"min_p": 0.5}, {1, 4}),
        ({"min_p": 1.0}, {1}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
    ],
)
def test_only_what_is_left_in_can_be_chosen(
    said: dict[str, Any], possible: set[int]
) -> None:
    one = sampler(temperature=2.0 if "top_k" in said else 1.0, seed=3, **said)
    assert seen(one, LOGITS, 600) == possible


def test_a_seed_is_a_random_stream_of_its_own() -> None:
    flat = torch.zeros(5)
    first = sampler(temperature=1.0, seed=5)
    drawn = [first.pick(flat) for _ in range(20)]
    torch.manual_seed(0)
    second = sampler(temperature=1.0, seed=5)
    noise = sampler(temperature=1.0, seed=6)
    again = []
    for _ in range(20):
        noise.pick(flat)
        again.append(second.pick(flat))
    assert again == drawn


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**80])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    assert sampler(temperature=1.0, seed=seed).pick(LOGITS) in range(5)


def test_a_frequency_penalty_grows_with_each_use() -> None:
    one = sampler(frequency_penalty=0.5)
    one.produced += [1]
    assert one.pick(LOGITS) == 4
    one.produced += [4]
    assert one.pick(LOGITS) == 1


def test_a_presence_penalty_counts_once() -> None:
    one = sampler(presence_penalty=0.05)
    one.produced += [1, 1, 1]
    assert one.pick(LOGITS) == 1


def test_a_repetition_penalty_looks_at_the_prompt_too() -> None:
    assert sampler([1], repetition_penalty=1.5).pick(LOGITS) == 4


def test_a_repetition_penalty_makes_negative_scores_lower() -> None:
    logits = torch.tensor([-1.0, -1.1, -9.0, -9.0, -9.0])
    assert sampler([0], repetition_penalty=1.5).pick(logits) == 1


def test_a_bias_moves_one_token() -> None:
    assert sampler(logit_bias={"3": 100.0}).pick(LOGITS) == 3


def test_the_logits_are_left_as_they_were() -> None:
    before = LOGITS.clone()
    sampler([1], repetition_penalty=1.5, logit_bias={"3": 9.0}).pick(LOGITS)
    assert torch.equal(LOGITS, before)


WORDS = 40

SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5, WORDS - 1, WORDS + 30]),
    top_p=st.sampled_from([1.0, 0.9, 0.3, 0.0]),
    min_p=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 2**70),
)


def samplers(said: list[Sampling]) -> list[Sampler]:
    return [sampler_of(one, [], vocabulary=WORDS, device=CPU) for one in said]


@given(st.lists(SAMPLINGS, min_size=1, max_size=9), st.integers(0, 2**30))
def test_everyone_gets_the_tokens_they_would_get_alone(
    said: list[Sampling], seed: int
) -> None:
    logits = torch.randn(
        len(said), WORDS, generator=torch.Generator().manual_seed(seed)
    )
    in_company, alone = samplers(said), samplers(said)
    for _ in range(3):
        wanted = [one.pick(row) for one, row in zip(alone, 3 * logits, strict=True)]
        assert pick_together(3 * logits, in_company) == wanted


def test_only_what_temperature_and_cuts_decide_is_chosen_together() -> None:
    (plain,) = samplers([Sampling(temperature=1.0, top_p=0.5)])
    others = samplers(
        [
            Sampling(temperature=0.0),
            Sampling(temperature=1.0, frequency_penalty=0.5),
            Sampling(temperature=1.0, repetition_penalty=1.1),
            Sampling(temperature=1.0, logit_bias={"3": 2.0}),
        ]
    )
    assert plain.is_plain
    assert not any(one.is_plain for one in others)
