"""Answers held to a schema: a random model must end with JSON that satisfies it."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fixtures import tiny as tiny_models
from genie.contracts.inference import FinishReason, Sampling
from workers.engine.errors import RequestRefused
from workers.engine.protocol import EngineRequest
from workers.engine.torch.grammar import SCHEMA_PARAM, Grammars

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
CHOICE = {"anyOf": [{"const": "yes"}, {"const": "no"}, {"type": "null"}]}
LINKED = {
    "$defs": {
        "pair": {
            "type": "array",
            "prefixItems": [{"type": "boolean"}] * 2,
            "items": False,
            "minItems": 2,
        }
    },
    "type": "object",
    "properties": {"pair": {"$ref": "#/$defs/pair"}},
    "required": ["pair"],
    "additionalProperties": False,
}


def is_person(found: Any) -> bool:
    return (
        found.keys() == {"name", "age", "tags"}
        and isinstance(found["name"], str)
        and len(found["name"]) <= 8
        and 0 <= found["age"] <= 120
        and len(found["tags"]) <= 3
        and set(found["tags"]) <= {"a", "b"}
    )


CASES: list[tuple[dict[str, Any], Callable[[Any], bool]]] = [
    (PERSON, is_person),
    (CHOICE, lambda found: found in ("yes", "no", None)),
    (LINKED, lambda found: [type(one) for one in found["pair"]] == [bool, bool]),
]


@pytest.fixture
def guided(bench: Callable[..., Any]) -> Any:
    made = bench("llama", context=400, slots=6)
    backend = made.backend
    backend._grammars = Grammars(
        made.prompts.tokenizer,
        vocabulary=backend._runner.vocabulary,
        ends=backend._ends,
    )
    return made


@pytest.fixture
def held(request_for: Callable[..., EngineRequest]) -> Callable[..., EngineRequest]:
    def make(name: str, schema: object, **sampling: Any) -> EngineRequest:
        said = Sampling(**({"max_tokens": 380} | sampling))
        text = schema if isinstance(schema, str) else json.dumps(schema)
        plain = request_for(name, chat="go", sampling=said)
        return msgspec.structs.replace(plain, json_schema=text)

    return make


@pytest.mark.parametrize(("schema", "is_right"), CASES)
def test_every_answer_of_a_random_model_satisfies_its_schema(
    guided: Any,
    held: Callable[..., EngineRequest],
    schema: dict[str, Any],
    is_right: Callable[[Any], bool],
) -> None:
    for seed in range(12):
        guided.backend.submit(
            held(f"r{seed}", schema, temperature=0.1 + seed / 6, seed=seed)
        )
    guided.backend.submit(held("greedy", schema))
    guided.run()
    for name in ("greedy", *(f"r{seed}" for seed in range(12))):
        assert guided.finish(name).reason is FinishReason.STOP, guided.text(name)
        assert is_right(json.loads(guided.text(name))), guided.text(name)


def test_free_answers_beside_guided_ones_stay_what_they_were(
    guided: Any,
    held: Callable[..., EngineRequest],
    request_for: Callable[..., EngineRequest],
) -> None:
    free = request_for("free", chat="hello", sampling=Sampling(max_tokens=30))
    alone, _ = guided.answer(free)
    guided.events.clear()
    guided.backend.submit(held("json", PERSON))
    together, _ = guided.answer(free)
    assert together == alone
    assert is_person(json.loads(guided.text("json")))


def test_penalties_bias_and_ignored_ends_do_not_break_the_shape(
    guided: Any, held: Callable[..., EngineRequest]
) -> None:
    text, finish = guided.answer(
        held(
            "r",
            PERSON,
            temperature=1.0,
            seed=3,
            presence_penalty=1.5,
            repetition_penalty=1.2,
            logit_bias={"65": 100.0},
            top_p=0.9,
            ignore_eos=True,
        )
    )
    assert finish.reason is FinishReason.STOP
    assert is_person(json.loads(text))


def test_any_object_is_an_object(guided: Any, held: Callable[..., Any]) -> None:
    request = held("r", {"type": "object"}, temperature=1.0, seed=5, max_tokens=40)
    text, finish = guided.answer(request)
    assert text.startswith("{")
    if finish.reason is FinishReason.STOP:
        assert isinstance(json.loads(text), dict)


def test_an_answer_cut_by_its_limit_says_so(
    guided: Any, held: Callable[..., Any]
) -> None:
    text, finish = guided.answer(held("r", PERSON, max_tokens=5))
    assert finish.reason is FinishReason.LENGTH
    assert text.startswith("{")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strin"}, "strin"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "format": "nope"}, "nope"),
        ({"$ref": "https://example.com/a.json"}, "example.com"),
        ("{", "read"),
        ('"text"', "schema"),
        ({"enum": ["x" * 100_000]}, "100000"),
    ],
)
def test_a_schema_it_cannot_follow_is_refused_naming_the_field(
    guided: Any, held: Callable[..., EngineRequest], schema: object, said: str
) -> None:
    _, finish = guided.answer(held("r", schema))
    assert finish.fault.code == "invalid_request"
    assert finish.fault.param == "response_format.json_schema.schema"
    assert said in finish.fault.message


def test_a_model_without_grammars_refuses_a_schema(
    bench: Callable[..., Any], held: Callable[..., EngineRequest]
) -> None:
    _, finish = bench("llama").answer(held("r", PERSON))
    assert finish.fault.param == "response_format"


def test_a_vocabulary_that_cannot_be_read_is_the_refusals_reason() -> None:
    grammars = Grammars(tiny_models.byte_tokenizer(), vocabulary=200, ends=[199])
    with pytest.raises(RequestRefused, match="vocab size too small") as refused:
        grammars.of_schema('{"type": "object"}')
    assert refused.value.fault.param == SCHEMA_PARAM
