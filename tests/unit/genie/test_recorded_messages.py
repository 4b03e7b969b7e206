"""What earlier releases wrote is read, and the one before reads what this one writes.

The documents were made by those releases' own code (`tests/upgrade/record.py`).
"""

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from fixtures.releases import PREVIOUS, STRICT
from genie.contracts import codec, fleet, inference
from genie.contracts.base import Contract
from genie.messaging import envelope
from workers.files.manifest import Manifest
from workers.join import SavedRegistration

RECORDED = PREVIOUS.parent / "recorded"
RELEASES = sorted(path.name for path in RECORDED.iterdir())
READERS: dict[str, type[Contract]] = {
    "task": inference.InferenceTask,
    "started": inference.AttemptStarted,
    "given_back": inference.AttemptGivenBack,
    "chunk": inference.Chunk,
    "outcome": inference.Outcome,
    "written": inference.PartialAnswer,
    "usage": inference.Usage,
    "timing": inference.Timing,
    "extras": inference.AnswerExtras,
    "fault": inference.Fault,
    "registration": fleet.Registration,
    "registered": fleet.RegistrationReply,
    "heartbeat": fleet.Heartbeat,
    "heartbeat_reply": fleet.HeartbeatReply,
    "identity": SavedRegistration,
    "manifest": Manifest,
}
EVENTS = ("started", "given_back", "chunk", "outcome")
CASES = [(release, kind) for release in RELEASES for kind in READERS]


def recorded(release: str) -> dict[str, Any]:
    """What that release's own code wrote."""
    text = (RECORDED / release / "messages.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_release_before_is_recorded() -> None:
    assert PREVIOUS.read_text(encoding="ascii").strip()[:7] in RELEASES
    for release in RELEASES:
        assert recorded(release)["documents"].keys() == READERS.keys()


@pytest.mark.parametrize(("release", "kind"), CASES)
def test_every_field_of_an_earlier_release_is_read_and_kept(
    release: str, kind: str
) -> None:
    full, *others = recorded(release)["documents"][kind]
    assert json.loads(again(kind, full)) == json.loads(full)
    for text in others:
        value = codec.decode(READERS[kind], text)
        assert codec.decode(READERS[kind], again(kind, text)) == value


def again(kind: str, text: str) -> bytes:
    """A document as this release writes it."""
    return codec.encode(codec.decode(READERS[kind], text))


@pytest.mark.parametrize(("release", "kind"), CASES)
def test_a_default_means_what_it_meant_in_an_earlier_release(
    release: str, kind: str
) -> None:
    said = recorded(release)
    *_, least = said["documents"][kind]
    schemas = said["schemas"]
    left = needed(json.loads(least), schemas["kinds"][kind], schemas["$defs"])
    assert codec.convert(READERS[kind], left) == codec.decode(READERS[kind], least)


def needed(body: Any, schema: Any, parts: dict[str, Any]) -> Any:
    """A document without all that its schema does not require."""
    schema = parts.get(schema.get("$ref", "").rpartition("/")[2], schema)
    if isinstance(body, list) and "items" in schema:
        return [needed(one, schema["items"], parts) for one in body]
    if not isinstance(body, dict) or "properties" not in schema:
        return body
    kinds = schema["properties"]
    names = [name for name in schema.get("required", ()) if name in body]
    return {name: needed(body[name], kinds[name], parts) for name in names}


@pytest.mark.parametrize("kind", READERS)
def test_the_strict_release_before_reads_what_this_one_writes_at_defaults(
    kind: str,
) -> None:
    assert PREVIOUS.read_text(encoding="ascii").strip() == STRICT, (
        "`previous` reads leniently now: remove this test"
    )
    said = recorded(STRICT[:7])
    schemas = said["schemas"]
    schema = {**schemas["kinds"][kind], "$defs": schemas["$defs"]}
    for text in said["documents"][kind]:
        jsonschema_rs.validate(schema, json.loads(again(kind, text)))


@pytest.mark.parametrize("release", RELEASES)
def test_messages_of_an_earlier_release_are_taken_off_their_queues(
    release: str,
) -> None:
    said = recorded(release)
    task = envelope.unpack(said["body"])
    assert task == codec.decode(inference.InferenceTask, said["documents"]["task"][0])
    for kind in EVENTS:
        for text in said["documents"][kind]:
            event = codec.decode_event(text)
            assert event == codec.decode(READERS[kind], text)


UNPACKERS: dict[str, Callable[[bytes], object]] = {
    "task": envelope.unpack,
    "event": codec.decode_event,
}


@pytest.mark.parametrize("queue", UNPACKERS)
def test_messages_of_a_later_release_are_taken_off_their_queues(queue: str) -> None:
    said = recorded(RELEASES[0])
    body = said["body"] if queue == "task" else said["documents"]["outcome"][0]
    found = json.loads(body)
    inner = found[1]["task"] if queue == "task" else found
    inner["of_a_later_release"] = {"a": [2.5]}
    inner["sampling" if queue == "task" else "usage"]["of_a_later_release"] = 0.9
    later = msgspec.json.encode(found)
    assert UNPACKERS[queue](later) == UNPACKERS[queue](body.encode())
