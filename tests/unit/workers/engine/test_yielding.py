"""Batch requests give their slots to urgent ones, and nobody can tell by the answer."""

from collections.abc import Callable

import pytest

from genie.contracts.inference import Sampling, WorkClass
from unit.workers.engine.conftest import Bench
from workers.engine.protocol import EngineRequest

Make = Callable[..., Bench]
Ask = Callable[..., EngineRequest]

SAMPLED = Sampling(max_tokens=24, temperature=0.9, seed=7, frequency_penalty=0.5)
GREEDY = Sampling(max_tokens=24)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_an_answer_that_yielded_is_the_undisturbed_one(
    bench: Make, request_for: Ask, kind: str, sampling: Sampling
) -> None:
    alone = bench(kind, slots=1)
    prompt = "some lines of a batch that take a while"
    wanted, _ = alone.answer(request_for("r", prompt=prompt, sampling=sampling))
    engine = bench(kind, slots=1)
    batch = request_for(
        "r", prompt=prompt, sampling=sampling, work_class=WorkClass.BATCH
    )
    engine.backend.submit(batch)
    for turn in range(3):
        for _ in range(5):
            engine.step()
        engine.backend.submit(request_for(f"person{turn}", prompt=f"{turn} asks"))
    engine.run()
    running = engine.finish("r")
    assert engine.text("r") == wanted
    assert (running.usage.completion_tokens, running.usage.cached_tokens) == (24, 0)
    assert all(engine.finish(f"person{turn}").fault is None for turn in range(3))


def test_an_urgent_request_starts_at_once_where_batch_work_fills_all_slots(
    bench: Make, request_for: Ask
) -> None:
    engine = bench("llama", slots=2)
    for name in ("a", "b"):
        engine.backend.submit(
            request_for(name, prompt=name, sampling=GREEDY, work_class=WorkClass.BATCH)
        )
        engine.step()
    engine.backend.submit(request_for("person", prompt="now", sampling=GREEDY))
    engine.step()
    assert engine.text("person")
    engine.run()
    assert all(engine.finish(name).fault is None for name in ("a", "b"))
