import json
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect
from msgspec.structs import replace

from fixtures.contracts import CONTRACTS, EVENTS, values, wrong
from genie.contracts import codec
from genie.contracts.base import Contract
from genie.contracts.fleet import Heartbeat, HostStatus, ModelState, ModelStatus
from genie.contracts.inference import Chunk, Message, PartialAnswer, Sampling
from genie.contracts.model import ModelFile
from genie.errors import CodecError, TooLarge

DEEP = b"[" * 100_000 + b"]" * 100_000


def fields(contract: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(contract)
    assert isinstance(info, inspect.StructType)
    return info.fields


NAMED = [one for one in CONTRACTS if not one.__struct_config__.array_like]
"""Contracts that travel as objects; the others, one a token, as arrays: shorter."""
FIELDS = [(contract, field) for contract in NAMED for field in fields(contract)]
REQUIRED = [(contract, field) for contract, field in FIELDS if field.required]


def example(contract: type[msgspec.Struct]) -> dict[str, object]:
    """The JSON object of a contract with every field given a plain value."""
    made: dict[str, object] = {}
    for field in fields(contract):
        made[field.name] = plain(field.type)
    return tagged(contract) | made


def tagged(contract: type[msgspec.Struct]) -> dict[str, object]:
    """What tells a contract from others on the same queue, if anything does."""
    tag = contract.__struct_config__.tag_field
    return {tag: contract.__struct_config__.tag} if tag else {}


def needs(contract: type[msgspec.Struct]) -> list[inspect.Field]:
    return [field for field in fields(contract) if field.required]


PLAIN: dict[type[inspect.Type], object] = {
    inspect.NoneType: None,
    inspect.BoolType: True,
    inspect.IntType: 1,
    inspect.FloatType: 1.5,
    inspect.StrType: "text",
    inspect.DateTimeType: "2026-01-01T00:00:00Z",
    inspect.VarTupleType: [],
    inspect.DictType: {},
}


def plain(kind: inspect.Type) -> object:
    match kind:
        case inspect.UnionType(types=types):
            return plain(types[0])
        case inspect.EnumType(cls=cls):
            return next(iter(cls)).value
        case inspect.StructType(cls=cls):
            return example(cls)
    return PLAIN[type(kind)]


def name_of(value: type[Contract] | inspect.Field) -> str:
    return value.name if isinstance(value, inspect.Field) else value.__name__


def test_every_contract_is_covered() -> None:
    names = {contract.__name__ for contract in CONTRACTS}
    expected = {"ModelSpec", "InferenceTask", "Outcome", "Heartbeat", "HeartbeatReply"}
    assert expected < names
    assert len(CONTRACTS) >= 20


@pytest.mark.parametrize("contract", CONTRACTS, ids=name_of)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_value_survives_the_wire(
    contract: type[Contract], data: st.DataObject
) -> None:
    value = data.draw(values(contract))
    assert codec.decode(contract, codec.encode(value)) == value
    assert codec.convert(contract, codec.builtins(value)) == value
    stored = json.loads(json.dumps(codec.builtins(value)))
    assert codec.convert(contract, stored) == value


@given(st.one_of([values(event) for event in EVENTS]))
def test_an_event_comes_back_as_the_event_it_was(event: Contract) -> None:
    assert codec.decode_event(codec.encode(event)) == event


@pytest.mark.parametrize("contract", CONTRACTS, ids=name_of)
@settings(max_examples=40)
@given(data=st.data())
def test_what_a_later_release_adds_is_ignored(
    contract: type[Contract], data: st.DataObject
) -> None:
    value = data.draw(values(contract))
    later = with_more(json.loads(codec.encode(value)), inspect.type_info(contract))
    assert codec.decode(contract, json.dumps(later)) == value
    assert codec.convert(contract, later) == value


def with_more(body: object, kind: inspect.Type) -> object:
    """A body with something unknown added to every value of a contract in it."""
    match kind:
        case inspect.StructType(cls=cls, fields=fields) if isinstance(body, list):
            assert cls.__struct_config__.array_like
            pairs = zip(body, fields, strict=False)
            return [*(with_more(one, field.type) for one, field in pairs), "later"]
        case inspect.StructType(fields=fields) if isinstance(body, dict):
            kinds = {field.encode_name: field.type for field in fields}
            known = {
                name: with_more(body[name], kinds[name])
                for name in kinds
                if name in body
            }
            return {**body, **known, "later": {"a": [1, None]}}
        case inspect.VarTupleType(item_type=item) if isinstance(body, list):
            return [with_more(one, item) for one in body]
        case inspect.UnionType(types=types) if body is not None:
            return with_more(body, next(t for t in types if t != inspect.NoneType()))
    return body


@pytest.mark.parametrize("contract", NAMED, ids=name_of)
def test_defaults_are_not_written_and_read_all_the_same(
    contract: type[Contract],
) -> None:
    needed = {field.name: example(contract)[field.name] for field in needs(contract)}
    value = codec.convert(contract, tagged(contract) | needed)
    written = json.loads(codec.encode(value))
    assert written.keys() == tagged(contract).keys() | needed.keys()
    assert codec.decode(contract, json.dumps(written)) == value


def test_an_http_answer_keeps_every_field() -> None:
    model = ModelStatus(model="m", quant="f32", state=ModelState.READY)
    one = codec.shown(replace(model, files=(ModelFile(name="a"),)))
    assert one.keys() == {field.name for field in fields(ModelStatus)}
    assert one["error"] is None
    assert one["state"] == "ready"
    assert one["files"] == [{"name": "a", "sha256": None, "size_bytes": None}]


@pytest.mark.parametrize(("contract", "field"), REQUIRED, ids=name_of)
def test_a_missing_field_is_named(
    contract: type[Contract], field: inspect.Field
) -> None:
    body = example(contract)
    del body[field.name]
    with pytest.raises(CodecError) as caught:
        codec.decode(contract, json.dumps(body))
    assert caught.value.param == field.name


@pytest.mark.parametrize(("contract", "field"), FIELDS, ids=name_of)
def test_a_field_of_the_wrong_type_is_named(
    contract: type[Contract], field: inspect.Field
) -> None:
    body = {**example(contract), field.name: wrong(field.type)}
    with pytest.raises(CodecError) as decoding:
        codec.decode(contract, json.dumps(body))
    with pytest.raises(CodecError) as converting:
        codec.convert(contract, body)
    assert decoding.value.param == converting.value.param == field.name


@pytest.mark.parametrize("token", [["a"], ["a", "b"], ["a", -1.0, ["x"]], {}])
def test_a_token_that_is_not_in_shape_is_refused(token: object) -> None:
    body = {**example(PartialAnswer), "choices": [token]}
    with pytest.raises(CodecError, match="PartialAnswer"):
        codec.decode(PartialAnswer, json.dumps(body))


def test_a_field_deep_inside_is_named_by_its_path() -> None:
    body = example(Heartbeat)
    body["gpus"] = [{"index": -1}]
    with pytest.raises(CodecError) as caught:
        codec.decode(Heartbeat, json.dumps(body))
    assert caught.value.param == "gpus[0].index"
    body["gpus"] = []
    body["host"] = {**example(HostStatus), "cpu_count": -2}
    with pytest.raises(CodecError) as caught:
        codec.decode(Heartbeat, json.dumps(body))
    assert caught.value.param == "host.cpu_count"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b'{"kind":"nothing"}',
        b'{"kind":7}',
        b'{"kind":"chunk","job_id":"\xff"}',
        b'{"kind":"chunk","seq":99999999999999999999999999}',
        b"[" * 100_000,
        b'{"before":' + DEEP + b',"kind":"chunk"}',
    ],
)
def test_bytes_that_are_no_event_are_one_kind_of_error(body: bytes) -> None:
    with pytest.raises(CodecError):
        codec.decode_event(body)
    with pytest.raises(CodecError):
        codec.decode(Chunk, body)


@given(st.binary(max_size=200))
def test_no_bytes_escape_as_another_error(body: bytes) -> None:
    for read in (codec.decode_event, lambda data: codec.decode(Message, data)):
        try:
            read(body)
        except CodecError as error:
            assert str(error)


def test_a_message_over_the_limit_is_refused_before_it_travels() -> None:
    message = Message(role="user", content="x" * 100)
    size = len(codec.encode(message))
    assert codec.encode(message, limit_bytes=size)
    with pytest.raises(TooLarge) as caught:
        codec.encode(message, limit_bytes=size - 1)
    assert str(size) in str(caught.value)
    assert str(size - 1) in str(caught.value)
    assert caught.value.param == "messages"


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(CodecError, match="not valid Unicode"):
        codec.encode(Message(role="user", content="\ud800"))


def test_defaults_may_be_left_out() -> None:
    assert codec.decode(Sampling, b"{}") == Sampling()


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Expected `str`, got `int` - at `$.messages[0].role`", "messages[0].role"),
        ("Object missing required field `a` - at `$.b[2]`", "b[2].a"),
        ("Object contains unknown field `x`", "x"),
        ("Expected `object`, got `array`", None),
        ("JSON is malformed: invalid character (byte 0)", None),
    ],
)
def test_the_field_is_read_off_the_message(said: str, name: str | None) -> None:
    assert codec.field(ValueError(said)) == name


def test_one_thread_at_a_time_learns_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    builders, most = 0, 0

    def build(kind: type[object]) -> "msgspec.json.Decoder[object]":
        nonlocal builders, most
        builders += 1
        most = max(most, builders)
        time.sleep(0.01)
        builders -= 1
        return real(kind)

    real = msgspec.json.Decoder
    kinds = [msgspec.defstruct(f"Kind{n}", [("name", str)]) for n in range(4)]
    monkeypatch.setattr(msgspec.json, "Decoder", build)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(codec.decoder, kinds * 8))
    assert most == 1
    assert found[:4] == found[4:8]
