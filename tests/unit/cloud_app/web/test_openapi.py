"""What /openapi says: of every operation its answers, from the handlers' own types."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

Json = dict[str, Any]


@pytest.fixture
def document(visitor: FlaskClient) -> Json:
    """The description a running cloud gives of itself."""
    found: Json = visitor.get("/openapi").get_json()
    return found


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def refs(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from refs(one)


def test_every_operation_says_what_it_answers(document: Json) -> None:
    without = [
        name
        for name, operation in operations(document)
        if not any(
            code.startswith("2") and response["content"]
            for code, response in operation["responses"].items()
        )
    ]
    assert not without


def test_every_answer_carries_a_request_id_and_busy_says_when(document: Json) -> None:
    for name, operation in operations(document):
        for code, said in operation["responses"].items():
            kind = said.get("$ref", "").rsplit("/", 1)[-1]
            response = document["components"]["responses"].get(kind, said)
            assert kind in ("", "Busy" if code in ("429", "503") else "Error"), name
            assert response["headers"]["x-request-id"]["required"], (name, code)
    busy = document["components"]["responses"]["Busy"]["headers"]["Retry-After"]
    assert busy["required"]
    assert busy["schema"]["maximum"] == 120


def test_every_reference_leads_somewhere(document: Json) -> None:
    for ref in set(refs(document)):
        found = document
        for part in ref.removeprefix("#/").split("/"):
            found = found[part]


def test_names_of_operations_are_unique(document: Json) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)


def test_a_parameter_is_left_out_and_never_null(document: Json) -> None:
    jobs = document["paths"]["/v1/jobs"]["get"]["parameters"]
    limit = next(one for one in jobs if one["name"] == "limit")
    assert (limit["in"], limit["required"]) == ("query", False)
    assert limit["schema"]["maximum"] == 200
    assert "null" not in str(jobs)


def test_a_stream_is_described_by_what_one_event_carries(document: Json) -> None:
    chat = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]
    event = chat["content"]["text/event-stream"]["schema"]
    carried = str(event["properties"]["data"])
    assert "ChatChunk" in carried
    assert "[DONE]" in carried


def test_what_is_made_links_to_what_can_be_done_with_it(document: Json) -> None:
    made = document["paths"]["/v1/schedules"]["post"]["responses"]["201"]
    assert {"get_schedule", "pause_schedule", "delete_schedule"} <= made["links"].keys()
    pause = made["links"]["pause_schedule"]
    assert pause["parameters"] == {"schedule": "$response.body#/id"}


def test_keys_of_objects_keep_their_pattern(document: Json) -> None:
    chat = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert "patternProperties" in str(chat["logit_bias"])


def test_headers_that_are_heeded_are_described(document: Json) -> None:
    events = document["paths"]["/v1/jobs/{job_id}/events"]["get"]["parameters"]
    assert {(one["name"], one["in"]) for one in events} == {
        ("job_id", "path"),
        ("Last-Event-ID", "header"),
    }


def test_any_last_event_id_is_taken(document: Json) -> None:
    """One that is no id of the timeline starts from the beginning, an empty one too."""
    events = document["paths"]["/v1/jobs/{job_id}/events"]["get"]["parameters"]
    (header,) = [one for one in events if one["in"] == "header"]
    assert header["schema"] == {"type": "string"}


@pytest.mark.parametrize(
    ("operation", "linked"),
    [
        ("chat", "get_job"),
        ("complete", "get_job"),
        ("retry_job", "cancel_job"),
        ("get_job", "stream_job"),
        ("replay_letter", "get_job"),
        ("upload_file", "get_file_content"),
        ("create_batch", "cancel_batch"),
        ("create_schedule", "get_schedule"),
        ("get_schedule", "run_schedule"),
        ("make_key", "revoke_key"),
    ],
)
def test_an_id_in_an_answer_links_to_what_takes_it(
    document: Json, operation: str, linked: str
) -> None:
    found = next(
        one for _, one in operations(document) if one["operationId"] == operation
    )
    links = [response.get("links", {}) for response in found["responses"].values()]
    assert any(linked in names for names in links)


def test_an_answer_always_holds_what_may_be_null(document: Json) -> None:
    job = document["components"]["schemas"]["JobAnswer"]
    assert {"object", "persona", "result", "locality"} <= set(job["required"])
    assert {"type": "null"} in job["properties"]["persona"]["anyOf"]
    assert set(job["required"]) == set(job["properties"])


def test_only_what_may_be_left_out_is_optional(document: Json) -> None:
    schemas = document["components"]["schemas"]
    chunk, event = schemas["ChatChunk"], schemas["JobEvent"]
    left_out = set(chunk["properties"]) - set(chunk["required"])
    assert left_out == {"usage", "model_substituted", "genie"}
    assert set(event["required"]) == {"event", "at"}
    assert "null" not in str(event["properties"])


def test_what_the_cloud_always_knows_is_never_null(document: Json) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["JobAnswer"]["properties"]["locality"] == {
        "$ref": "#/components/schemas/Locality"
    }
    assert "x-never-null" not in str(document)
