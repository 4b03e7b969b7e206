import json

import pytest
from flask.testing import FlaskClient

from cloud_app.context import Context
from cloud_app.jobs import lifecycle
from fixtures import web
from fixtures.web import TwinBus
from unit.cloud_app.web.test_inference import CHAT, ask, error

IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (ask(messages=[]), "messages"),
        (ask(messages="hi"), "messages"),
        (ask(messages=[{"role": "user"}]), "messages[0].content"),
        (ask(messages=[{"role": "user", "content": 5}]), "messages[0].content"),
        (ask(messages=[{"role": "boss", "content": "x"}]), "messages[0].role"),
        (
            ask(messages=[{"role": "user", "content": [{"type": "text"}]}]),
            "messages[0].content[0].text",
        ),
        (ask(temperature=2.1), "temperature"),
        (ask(temperature="hot"), "temperature"),
        (ask(top_p=-0.1), "top_p"),
        (ask(max_tokens=0), "max_tokens"),
        (ask(seed=1.5), "seed"),
        (ask(stop=[""]), "stop[0]"),
        (ask(presence_penalty=-3), "presence_penalty"),
        (ask(logit_bias={"12": 101}), "logit_bias.12"),
        (ask(mode="later"), "mode"),
        (ask(mode="async", stream=True), "mode"),
        (ask(metadata={"a": 1}), "metadata.a"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "model"),
        (ask(model=None), "model"),
    ],
)
def test_a_body_with_a_mistake_is_refused_by_the_name_of_its_field(
    client: FlaskClient, body: dict[str, object], param: str
) -> None:
    response = client.post(CHAT, json=body)

    assert response.status_code == 400
    assert error(response)["param"] == param
    assert error(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": IMAGE}, "messages[0].content[0].type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_what_cannot_be_done_yet_is_said_and_never_ignored(
    client: FlaskClient, more: dict[str, object], param: str
) -> None:
    response = client.post(CHAT, json=ask(**more))

    assert response.status_code == 400
    assert error(response)["param"] == param
    assert error(response)["code"] == "unsupported_parameter"
    assert "not supported yet" in error(response)["message"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_json"),
        (b'{"model": ', "invalid_json"),
        (b'{"model": NaN}', "invalid_json"),
        (b"[1]", "invalid_json"),
        (b"[" * 5000, "invalid_json"),
        (b'"\\ud800"', "invalid_json"),
    ],
)
def test_a_body_that_is_not_json_is_refused_with_the_place(
    client: FlaskClient, data: bytes, code: str
) -> None:
    response = client.post(CHAT, data=data, content_type="application/json")

    assert response.status_code == 400
    assert error(response)["code"] == code


def test_a_body_over_the_limit_is_413_with_the_limit(client: FlaskClient) -> None:
    response = client.post(CHAT, data=b" " * 1_048_577)

    assert response.status_code == 413
    assert "1048576" in error(response)["message"]


def test_an_unknown_model_is_404_with_suggestions(client: FlaskClient) -> None:
    response = client.post(CHAT, json=ask(model="echo:smal"))

    assert response.status_code == 404
    assert error(response)["code"] == "model_not_found"
    assert "echo:small" in error(response)["message"]


@pytest.mark.parametrize("name", ["titan", "poet"])
def test_what_is_no_model_tier_or_persona_is_404_with_suggestions(
    client: FlaskClient, name: str
) -> None:
    for body in (ask(model=name), ask(model=None, persona=name)):
        response = client.post(CHAT, json=body)
        assert response.status_code == 404
        assert "did you mean" in error(response)["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "2.0001"),
        ("top_p", "-0.1"),
        ("max_tokens", "1" + "0" * 30),
        ("max_tokens", "1.5"),
        ("seed", str(2**63)),
        ("top_k", "-1"),
    ],
)
def test_a_number_out_of_range_is_refused_by_the_name_of_its_field(
    client: FlaskClient, field: str, value: str
) -> None:
    sound = json.dumps(ask()).removesuffix("}")
    response = client.post(CHAT, data=f'{sound}, "{field}": {value}}}')
    assert response.status_code == 400
    assert error(response)["param"] == field


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1" + "0" * 5000])
def test_what_json_has_no_number_for_is_refused(
    client: FlaskClient, value: str
) -> None:
    sound = json.dumps(ask()).removesuffix("}")
    response = client.post(CHAT, data=f'{sound}, "temperature": {value}}}')
    assert response.status_code == 400


@pytest.mark.parametrize("key", [None, "Bearer nonsense", "Basic abc"])
def test_without_a_good_key_nothing_is_read(
    visitor: FlaskClient, key: str | None
) -> None:
    headers = {"Authorization": key} if key else {}
    response = visitor.post(CHAT, data=b"{", headers=headers)

    assert response.status_code == 401
    assert error(response)["code"] == "invalid_api_key"
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_prompt_over_the_context_is_400_even_for_a_stream(
    client: FlaskClient, bus: TwinBus
) -> None:
    reason = "the prompt has 9000 tokens and echo:small takes 2048"
    bus.work = web.failing("context_length_exceeded", reason)

    for stream in (False, True):
        response = client.post(CHAT, json=ask(stream=stream))
        assert response.status_code == 400
        assert error(response)["code"] == "context_length_exceeded"


def test_a_prompt_no_context_can_hold_is_refused_before_anything_is_queued(
    client: FlaskClient, ctx: Context, bus: TwinBus
) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 9000}]}
    for fields in (long, long | {"stream": True}, long | {"mode": "async"}):
        response = client.post(CHAT, json=fields | {"model": "echo:small"})
        assert response.status_code == 400
        said = error(response)
        assert (said["code"], said["param"]) == ("context_length_exceeded", "messages")
        assert "9001" in said["message"]
        assert "2048" in said["message"]
    response = client.post(
        "/v1/completions", json={"model": "echo:small", "prompt": "word " * 9000}
    )
    assert (response.status_code, error(response)["param"]) == (400, "prompt")
    assert bus.published == []
    assert lifecycle.find(ctx, web.ORG) == ()
