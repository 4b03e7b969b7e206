"""Choosing for many requests at once is choosing for each."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from genie.contracts.inference import Sampling
from workers.engine.torch.sampler import Sampler, pick_together, sampler_of

CPU = torch.device("cpu")
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
