"""The API as its clients meet it: over HTTP, with the official OpenAI client."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from cloud_app.context import utc_now
from cloud_app.jobs import lifecycle
from fixtures import web
from fixtures.site import Site, serve
from fixtures.web import TwinBus
from genie.contracts.inference import Event, InferenceTask, JobState

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A running application with one worker that serves the small echo model."""
    ctx = web.context(tmp_path, clock=utc_now)
    web.join(ctx, models=(web.ready(),))
    with serve(ctx) as started:
        yield started
    ctx.db.dispose()


@pytest.fixture
def client(site: Site) -> Iterator[OpenAI]:
    """The official client, which checks every answer against its own types."""
    with OpenAI(
        base_url=f"{site.url}/v1",
        api_key=site.secret,
        max_retries=0,
        _strict_response_validation=True,
    ) as made:
        yield made


def test_the_official_client_lists_models(client: OpenAI) -> None:
    assert "echo:small" in [model.id for model in client.models.list()]
    assert client.models.retrieve("echo:small").owned_by == "genie"


def test_the_official_client_gets_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chat", messages=HI, extra_body={"persona": "review"}
    )

    assert answer.choices[0].message.content == "hello world"
    assert answer.choices[0].finish_reason == "stop"


def test_the_official_client_streams_and_gets_the_usage(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chat",
        messages=HI,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == "hello world"
    assert chunks[-1].usage is not None


def test_the_official_client_gets_a_plain_completion(client: OpenAI) -> None:
    answer = client.completions.create(model="chat", prompt="Once")

    assert answer.choices[0].text == "hello world"


def test_the_official_client_raises_its_own_errors(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=HI)
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="chat", messages=[])

    assert missing.value.code == "model_not_found"
    assert wrong.value.param == "messages"
    assert wrong.value.request_id is not None


def test_a_stream_that_fails_raises_in_the_official_client(
    site: Site,
) -> None:
    bus = cast(TwinBus, site.ctx.bus)
    bus.work = web.failing("load_failed", "the model does not load")
    # not strict: its types have no word for a stream that ends with an error
    with OpenAI(base_url=f"{site.url}/v1", api_key=site.secret) as client:
        chat = client.chat.completions
        with pytest.raises(openai.APIError, match="does not load"):
            list(chat.create(model="chat", messages=HI, stream=True))


def test_a_client_that_goes_away_cancels_its_job(site: Site) -> None:
    def silent(task: InferenceTask) -> Iterator[Event]:
        return iter(())

    cast(TwinBus, site.ctx.bus).work = silent
    connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=10)
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps({"model": "chat", "stream": True, "messages": HI}),
        {"Authorization": f"Bearer {site.secret}"},
    )
    response = connection.getresponse()
    job_id = response.headers["x-genie-job-id"]
    response.read(20)

    response.close()
    connection.close()

    job = lifecycle.get(site.ctx, web.ORG, job_id)
    for _ in range(200):
        if job.state is JobState.CANCELLED:
            return
        time.sleep(0.05)  # the server notices at its next write
        job = lifecycle.get(site.ctx, web.ORG, job_id)
    pytest.fail(f"job {job_id} is still {job.state}")
