"""Reading what the cloud says, of this release or a later one."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def all_kinds(base: type[ApiObject] = ApiObject) -> Iterator[type[ApiObject]]:
    """Every object of the API that is no part of a list of any type."""
    for kind in base.__subclasses__():
        if not getattr(kind, "__parameters__", ()):
            yield kind
        yield from all_kinds(kind)


KINDS = list(all_kinds())


def example(kind: type[ApiObject]) -> dict[str, object]:
    """The JSON of an object with what a reader cannot do without."""
    hints = get_type_hints(kind)
    needed = [field for field in msgspec.structs.fields(kind) if field.required]
    return {field.encode_name: value(hints[field.name]) for field in needed}


def value(hint: Any) -> object:
    if get_origin(hint) in (list, tuple):
        return []
    if get_args(hint):
        return value(get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, ApiObject):
        return example(hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return next(iter(hint))
    plain = {int: 1, float: 0.5, msgspec.Raw: [1], Any: "x"}
    return hint if isinstance(hint, str) else plain.get(hint, "x")


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_of_a_later_release_is_ignored(kind: type[ApiObject]) -> None:
    sent = example(kind) | {"new_field": {"a": 1}}
    assert isinstance(read(kind, msgspec.json.encode(sent)), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_cloud_writes_is_what_a_reader_reads(kind: type[ApiObject]) -> None:
    made = read(kind, msgspec.json.encode(example(kind)))
    written = msgspec.json.encode(made)
    assert read(kind, written) == made
    fields = msgspec.structs.fields(kind)
    left_out = {one.encode_name for one in fields if one.default is msgspec.UNSET}
    if not kind.__struct_config__.omit_defaults:
        every = {one.encode_name for one in fields} - left_out
        assert every <= msgspec.json.decode(written).keys()


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
