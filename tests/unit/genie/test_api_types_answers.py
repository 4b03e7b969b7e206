"""Reading what the cloud says, of this release or a later one."""

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie import api_types
from genie.api_types import (
    ApiObject,
    JobAnswer,
    ModelAnswer,
    WorkerAnswer,
    read,
    read_list,
)
from genie.contracts import codec
from genie.contracts.fleet import GpuStatus, HostStatus, ModelState, ModelStatus
from genie.errors import CodecError


def kinds() -> list[type[ApiObject]]:
    """Every answer there is."""
    found = [value for value in vars(api_types).values() if isinstance(value, type)]
    return [
        kind for kind in found if issubclass(kind, ApiObject) and kind is not ApiObject
    ]


@pytest.mark.parametrize("kind", kinds())
def test_a_field_of_a_later_release_is_ignored(kind: type[ApiObject]) -> None:
    required = {"id": "x", "status": "queued", "name": "n", "model": "m", "why": "w"}
    more = {
        "message": "m",
        "state": "ready",
        "queue": "q",
        "token": "t",
        "logprob": -0.5,
        "event": "queued",
        "at": 0.0,
        "route": {},
        "index": 0,
        "embedding": "",
    }
    body: dict[str, object] = {**required, **more, "data": [], "new_field": {"a": 1}}
    names = {field.encode_name for field in msgspec.structs.fields(kind)}
    needed = {
        field.encode_name for field in msgspec.structs.fields(kind) if field.required
    }
    assert needed <= body.keys(), f"tell this test about the new field of {kind}"
    sent = {name: body[name] for name in needed} | {"new_field": 1}
    assert "new_field" not in names
    assert isinstance(read(kind, json.dumps(sent)), kind)


def test_what_a_worker_reports_is_read_in_full() -> None:
    gpu = GpuStatus(
        index=0, uuid="u", name="RTX", memory_total_bytes=9, memory_used_bytes=1
    )
    host = HostStatus(
        cpu_count=2,
        memory_total_bytes=8,
        memory_available_bytes=4,
        disk_free_bytes=2,
    )
    model = ModelStatus(
        model="m",
        quant="f32",
        state=ModelState.FAILED,
        error="no room",
        retry_at=datetime(2030, 1, 1, tzinfo=UTC),
    )
    body = {
        "id": "w1",
        "name": "gpu-1",
        "gpus": [codec.builtins(gpu)],
        "host": codec.builtins(host),
        "models": [codec.builtins(model)],
    }
    found = read(WorkerAnswer, msgspec.json.encode(body))
    assert msgspec.structs.asdict(found.gpus[0]) == msgspec.structs.asdict(gpu)
    assert found.host is not None
    assert msgspec.structs.asdict(found.host) == msgspec.structs.asdict(host)
    assert (found.models[0].error, found.models[0].retry_at) == (
        "no room",
        model.retry_at,
    )


@pytest.mark.parametrize("body", ["", "[]", "{", '{"id": 3}', '{"id": "a"}', "<html>"])
def test_what_cannot_be_read_names_the_answer(body: str) -> None:
    with pytest.raises(CodecError, match="JobAnswer cannot be read"):
        read(JobAnswer, body)


@pytest.mark.parametrize("body", ["", "{}", '{"data": 3}', "[3]", '[{"name": "x"}]'])
def test_a_list_that_cannot_be_read_is_an_error_of_ours(body: str) -> None:
    with pytest.raises(CodecError, match="cannot be read"):
        read_list(ModelAnswer, body.encode())


@given(st.binary())
def test_no_bytes_get_past_as_another_error(body: bytes) -> None:
    with pytest.raises(CodecError):
        read(JobAnswer, body)
