"""The embeddings door, with a worker that is a function."""

import base64
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from flask.testing import FlaskClient
from openai import BadRequestError
from openai.types import CreateEmbeddingResponse

from cloud_app.context import Context
from fixtures import web
from fixtures.doors import Door
from fixtures.engines import EchoEngine
from fixtures.web import TwinBus
from genie.contracts.inference import AnswerExtras, Event, InferenceTask

MODEL = "echo:embed"


def vector(text: str) -> str:
    return base64.b64encode(struct.pack("<2f", 0.5, float(len(text)))).decode()


def embed(task: InferenceTask) -> Iterable[Event]:
    """What a worker sends for texts to embed: half, and the length of the text."""
    extras = AnswerExtras(vectors=tuple(vector(text) for text in task.inputs))
    yield web.started(task)
    yield msgspec.structs.replace(web.outcome(task), extras=extras)


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    made = web.context(tmp_path)
    web.join(made, models=(web.ready(), web.ready(MODEL)))
    cast(TwinBus, made.bus).work = embed
    yield made
    made.db.dispose()


def error(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = response.get_json()["error"]
    assert response.status_code == 400
    return found


def test_texts_become_vectors_in_their_order(client: FlaskClient, bus: TwinBus) -> None:
    body = {"model": "embed", "input": ["one", "three"]}
    response = client.post("/v1/embeddings", json=body)

    answer = CreateEmbeddingResponse.model_validate(response.get_json())
    assert [one.embedding for one in answer.data] == [[0.5, 3.0], [0.5, 5.0]]
    assert [one.index for one in answer.data] == [0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 5)
    assert answer.model == MODEL
    assert bus.published[0].inputs == ("one", "three")
    assert response.get_json()["genie"]["worker"] == "atlas"


def test_one_text_may_come_bare(client: FlaskClient) -> None:
    body = {"persona": "embed", "input": "four"}
    response = client.post("/v1/embeddings", json=body)
    assert response.get_json()["data"][0]["embedding"] == [0.5, 4.0]


def test_base64_is_what_openais_clients_ask_for(client: FlaskClient) -> None:
    body = {"model": MODEL, "input": "four", "encoding_format": "base64"}
    response = client.post("/v1/embeddings", json=body)
    assert response.get_json()["data"][0]["embedding"] == vector("four")


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_refused_with_the_client_s_option(
    client: FlaskClient, ids: object
) -> None:
    body = {"model": "embed", "input": ids}
    said = error(client.post("/v1/embeddings", json=body))
    assert said["param"] == "input"
    assert "check_embedding_ctx_length=False" in said["message"]


@pytest.mark.parametrize("wrong", ["", [], [""], 7, None, {"a": 1}, ["a", None]])
def test_an_input_that_is_no_text_names_the_field(
    client: FlaskClient, wrong: object
) -> None:
    body = {"model": "embed", "input": wrong}
    said = error(client.post("/v1/embeddings", json=body))
    assert said["param"].startswith("input")


def test_more_texts_than_one_request_may_hold_are_refused(client: FlaskClient) -> None:
    body = {"model": "embed", "input": ["a"] * 257}
    said = error(client.post("/v1/embeddings", json=body))
    assert said["param"] == "input"
    assert "chunk_size=256" in said["message"]


def test_only_the_model_s_own_dimensions_can_be_asked_for(client: FlaskClient) -> None:
    body = {"model": "embed", "input": "a", "dimensions": 2}
    assert client.post("/v1/embeddings", json=body).status_code == 200
    said = error(client.post("/v1/embeddings", json=body | {"dimensions": 3}))
    assert said["param"] == "dimensions"
    assert "2 dimensions" in said["message"]


def test_a_model_that_chats_cannot_embed_and_the_other_way_round(
    client: FlaskClient,
) -> None:
    body = {"model": "echo:small", "input": "a"}
    said = error(client.post("/v1/embeddings", json=body))
    assert "cannot embed" in said["message"]
    turns = [{"role": "user", "content": "hi"}]
    chat = {"model": MODEL, "messages": turns}
    assert (
        "cannot chat"
        in error(client.post("/v1/chat/completions", json=chat))["message"]
    )


def test_a_repeated_request_gets_the_vectors_of_the_first(
    client: FlaskClient, bus: TwinBus
) -> None:
    body = {"model": "embed", "input": "four"}
    headers = {"Idempotency-Key": "k"}
    first = client.post("/v1/embeddings", json=body, headers=headers)
    again = client.post("/v1/embeddings", json=body, headers=headers)
    assert again.headers["x-genie-replayed"] == "true"
    assert again.get_json()["data"] == first.get_json()["data"]
    assert len(bus.published) == 1


def test_the_job_shows_its_vectors(client: FlaskClient) -> None:
    body = {"model": "embed", "input": "four"}
    response = client.post("/v1/embeddings", json=body)
    job = client.get(f"/v1/jobs/{response.headers['x-genie-job-id']}").get_json()
    assert job["result"]["data"][0]["embedding"] == [0.5, 4.0]


def test_the_lite_tier_stays_one_that_talks(ctx: Context) -> None:
    tier = ctx.catalog.tier("lite")
    assert tier is not None
    assert tier.name == "chat"


def test_the_official_client_gets_its_vectors_both_ways(
    ctx: Context, secret: str
) -> None:
    engine = EchoEngine()
    door = Door(ctx, engine)
    with door.openai(secret, is_strict=False) as lax:  # its own type knows no base64
        packed = lax.embeddings.create(model="embed", input=["a b", "c"])
    with door.openai(secret) as openai:
        plain = openai.embeddings.create(
            model="embed", input=["a b", "c"], encoding_format="float", dimensions=16
        )
        with pytest.raises(BadRequestError) as refused:
            openai.embeddings.create(model="embed", input="a", dimensions=17)
        assert refused.value.param == "dimensions"
        with pytest.raises(BadRequestError, match="check_embedding_ctx_length") as ids:
            openai.embeddings.create(model="embed", input=[1, 2])
        assert ids.value.param == "input"
    engine.close()
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == 16
        assert one.embedding == pytest.approx(other.embedding)
        assert sum(value * value for value in one.embedding) == pytest.approx(1.0)
    assert packed.usage.total_tokens == packed.usage.prompt_tokens > 0
