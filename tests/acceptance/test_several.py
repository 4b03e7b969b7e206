"""Several answers to one request, on a fleet whose workers die and are cancelled."""

from collections.abc import Iterator

import psutil
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from fixtures.fleet import Fleet, wait_until
from genie import Client
from genie.contracts.inference import JobState

WORDS = ["n", "words"]
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "n words"}]
LONG = 150
"""Tokens: about three seconds of echo:small at 20 ms a token."""


def streamed(openai: OpenAI, temperature: float) -> Iterator[tuple[int, str, str]]:
    """The pieces of two answers: which, its text, why it ended."""
    for chunk in openai.chat.completions.create(
        model="chat",
        messages=ASK,
        n=2,
        max_tokens=LONG,
        temperature=temperature,
        logprobs=True,
        stream=True,
    ):
        for choice in chunk.choices:
            told = choice.logprobs.content if choice.logprobs else None
            text = choice.delta.content or ""
            assert "".join(one.token for one in told or ()) == text
            yield choice.index, text, choice.finish_reason or ""


def running(client: Client) -> str:
    """The worker of the one job that runs, once it runs."""
    found: list[str] = []

    def is_running() -> bool:
        jobs = client.jobs(state=JobState.RUNNING.value)
        found.extend(job.details.worker or "" for job in jobs)
        return any(found)

    wait_until(is_running, 20, "the stream's job runs", every_s=0.05)
    return next(filter(None, found))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_of_several_goes_on_when_its_worker_dies(
    fleet: Fleet, client: Client, openai: OpenAI, temperature: float
) -> None:
    # Greedy answers repeat themselves and are spliced; others are asked to go on.
    texts, reasons, victim = ["", ""], ["", ""], ""
    for index, text, reason in streamed(openai, temperature):
        texts[index] += text
        reasons[index] += reason
        if not victim and all(len(one.split()) > 10 for one in texts):
            victim = running(client)
            fleet.kill(victim)
    assert [one.split() for one in texts] == [WORDS * (LONG // 2)] * 2
    assert reasons == ["length", "length"]
    (job, *_) = client.jobs(limit=1)
    assert job.details.worker != victim
    assert [one.text for one in job.result().alternatives] == texts
    assert job.result().usage.completion_tokens == 2 * LONG
    fleet.start_worker(victim)
    fleet.wait_ready("echo:small", workers=2, timeout_s=90)


def test_an_engine_that_dies_under_several_answers_is_replaced(
    fleet: Fleet, client: Client
) -> None:
    job = client.submit("n words", persona="chat", n=4, max_tokens=LONG)
    wait_until(lambda: client.job(job.id).status is JobState.RUNNING, 20, "it runs")
    worker = client.job(job.id).details.worker
    assert worker is not None
    for child in psutil.Process(fleet.pid(worker)).children(recursive=True):
        child.kill()
    result = job.result(timeout=60)
    assert [one.text.split() for one in result.alternatives] == [WORDS * 75] * 4
    fleet.wait_ready("echo:small", workers=2, timeout_s=90)


def test_a_cancel_and_a_deadline_end_all_of_them(client: Client) -> None:
    job = client.submit("n words", persona="chat", n=4, max_tokens=1500)
    wait_until(lambda: client.job(job.id).status is JobState.RUNNING, 20, "it runs")
    job.cancel()
    late = client.submit("n words", persona="chat", n=4, max_tokens=1500, timeout=1.5)
    wait_until(late.done, 30, "it is over")
    assert late.status is JobState.TIMEOUT
    assert job.refresh().status is JobState.CANCELLED
    wait_until(lambda: in_flight(client) == 0, 30, "every slot is free again")


def in_flight(client: Client) -> int:
    held = [model for worker in client.workers() for model in worker.models]
    return sum(model.in_flight for model in held)
