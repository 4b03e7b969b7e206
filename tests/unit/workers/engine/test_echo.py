"""The engine without weights, in a thread of this process."""

import base64
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from fixtures.engines import PATIENCE_S, QUIET, EchoEngine, Heard, echo_spec, wanted
from genie.contracts.inference import Fault, FinishReason, Sampling, WorkClass
from genie.contracts.model import Quant
from genie.sources import EchoOptions
from workers.engine.child.backend import EngineLimits
from workers.engine.echo import EchoBackend, word_vectors
from workers.engine.errors import EngineBusy, EngineGone, LoadFailed
from workers.engine.parent.starter import start
from workers.engine.protocol import EngineRequest, Finish, Piece

Make = Callable[..., Any]


@pytest.fixture
def echo() -> Iterator[Callable[..., EchoEngine]]:
    engines: list[EchoEngine] = []

    def make(**said: Any) -> EchoEngine:
        engines.append(EchoEngine(**said))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def test_it_says_the_words_again_and_two_more(echo: Make, request_for: Make) -> None:
    heard = Heard()
    echo().submit(request_for(chat="one two three", sampling=Sampling()), heard)
    assert heard.finish.reason is FinishReason.STOP
    assert heard.text == "one two three one two"
    assert heard.finish.usage.prompt_tokens == 3
    assert heard.finish.usage.completion_tokens == 5


@pytest.mark.parametrize("max_tokens", [None, 4])
def test_a_resumed_answer_goes_on_where_it_was_and_counts_the_same(
    echo: Make, request_for: Make, max_tokens: int | None
) -> None:
    sampling = Sampling(max_tokens=max_tokens)
    whole, rest = Heard(), Heard()
    asked = request_for(chat="one two three", sampling=sampling)
    echo().submit(asked, whole)
    assert whole.finish.fault is None
    echo().submit(msgspec.structs.replace(asked, resume="one two"), rest)
    assert rest.finish.usage == whole.finish.usage
    assert f"one two{rest.text}" == whole.text


def test_max_tokens_is_exactly_what_comes(echo: Make, request_for: Make) -> None:
    heard = Heard()
    echo().submit(request_for(chat="a b", sampling=Sampling(max_tokens=5)), heard)
    assert heard.finish.reason is FinishReason.LENGTH
    assert heard.text == "a b a b a"


def test_it_stops_at_a_stop_string(echo: Make, request_for: Make) -> None:
    heard = Heard()
    sampling = Sampling(max_tokens=50, stop=(" three o",))
    echo().submit(request_for(chat="one two three", sampling=sampling), heard)
    assert heard.finish.reason is FinishReason.STOP
    assert heard.text == "one two"


def test_a_cancelled_request_ends_as_cancelled(echo: Make, request_for: Make) -> None:
    engine, heard = echo(ms_per_token=5), Heard()
    engine.submit(request_for(chat="a", sampling=Sampling(max_tokens=4000)), heard)
    assert heard.begun.wait(PATIENCE_S)
    engine.cancel("r")
    assert heard.finish.reason is FinishReason.CANCELLED
    assert heard.finish.fault is None


def test_a_deadline_ends_a_request(echo: Make, request_for: Make) -> None:
    heard = Heard()
    request = request_for(chat="a", deadline_s=0.05, sampling=Sampling(max_tokens=4000))
    echo(ms_per_token=5).submit(request, heard)
    fault = heard.finish.fault
    assert fault is not None
    assert fault.code == "deadline_exceeded"


def test_a_long_prompt_is_refused_with_both_numbers(
    echo: Make, request_for: Make
) -> None:
    heard = Heard()
    echo(context=10, model="small").submit(request_for(chat="w " * 12), heard)
    fault = heard.finish.fault
    assert fault is not None
    assert fault.code == "context_length_exceeded"
    assert "12 tokens; small holds 10 here" in fault.message


def test_more_than_may_wait_are_refused_at_once(echo: Make, request_for: Make) -> None:
    engine, heard = echo(slots=1, waiting=2, ms_per_token=20), Heard()
    slow = Sampling(max_tokens=3000)
    for index in range(3):
        engine.submit(request_for(f"r{index}", chat="a", sampling=slow), heard)
    with pytest.raises(EngineBusy, match="at most 2 wait") as busy:
        engine.submit(request_for("r3", chat="a"), heard)
    assert busy.value.bound == 2
    stats = engine.stats()
    assert (stats.active, stats.waiting) == (1, 2)


def test_closing_fails_what_runs_and_takes_nothing_more(
    echo: Make, request_for: Make
) -> None:
    engine, heard = echo(ms_per_token=20), Heard()
    engine.submit(request_for(chat="a", sampling=Sampling(max_tokens=3000)), heard)
    engine.close()
    engine.close()
    fault = heard.finish.fault
    assert fault is not None
    assert (fault.code, fault.retryable) == ("engine_closed", True)
    with pytest.raises(EngineGone):
        engine.submit(request_for("again", chat="a"), heard)


def test_a_poisonous_prompt_kills_it_once(echo: Make, request_for: Make) -> None:
    died: list[Fault] = []
    over = threading.Event()

    def on_exit(fault: Fault) -> None:
        died.append(fault)
        over.set()

    engine = echo(crash_on="poison", on_exit=on_exit, ms_per_token=5)
    bystander, culprit = Heard(), Heard()
    engine.submit(
        request_for("b", chat="a", sampling=Sampling(max_tokens=999)), bystander
    )
    engine.submit(request_for("c", chat="some poison"), culprit)
    for heard in (bystander, culprit):
        assert heard.finish.fault is not None
        assert heard.finish.fault.code == "engine_died"
    assert over.wait(PATIENCE_S)
    assert [fault.code for fault in died] == ["engine_died"]


def test_an_id_in_flight_is_refused(echo: Make, request_for: Make) -> None:
    engine, heard = echo(ms_per_token=20), Heard()
    engine.submit(request_for(chat="a", sampling=Sampling(max_tokens=999)), heard)
    with pytest.raises(ValueError, match="already in flight"):
        engine.submit(request_for(chat="a"), heard)


def test_tokens_come_at_the_pace_asked_for(request_for: Make) -> None:
    now = 0.0
    room = EngineLimits(model="e", slots=4, context=99, waiting=4, budget=999)
    backend = EchoBackend(room, EchoOptions(ms_per_token=40.0), clock=lambda: now)
    for name in ("a", "b"):
        backend.submit(request_for(name, chat="x y", sampling=Sampling(max_tokens=3)))
    times: dict[str, list[float]] = {"a": [], "b": []}
    while backend.is_busy:
        wait = backend.wait_s()
        assert wait is not None
        now += wait
        for event in backend.step():
            if isinstance(event, Piece):
                times[event.id].append(round(now, 3))
    assert times["a"] == times["b"]
    assert [
        round(b - a, 3) for a, b in zip(times["a"], times["a"][1:], strict=False)
    ] == [
        0.04,
        0.04,
    ]


def test_interactive_work_goes_first(request_for: Make) -> None:
    now = 0.0
    room = EngineLimits(model="e", slots=1, context=99, waiting=9, budget=999)
    backend = EchoBackend(room, EchoOptions(), clock=lambda: now)
    for rank in (WorkClass.BATCH, WorkClass.JOB, WorkClass.INTERACTIVE):
        backend.submit(request_for(rank.value, chat="x", work_class=rank))
    order: list[str] = []
    while backend.is_busy:
        order += [one.id for one in backend.step() if isinstance(one, Finish)]
    assert order == ["interactive", "job", "batch"]


QUANT = Quant(name="f32", dtype="float32", weight_bytes=0)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("echo:?ms_per_tokens=10", "ms_per_tokens"),
        ("echo:?slots=many", "many"),
    ],
)
def test_a_wrong_option_is_named(source: str, named: str) -> None:
    with pytest.raises(LoadFailed, match=named) as caught:
        start(wanted(echo_spec(source), quant=QUANT), QUIET)
    assert caught.value.fault.code == "bad_source"


def test_all_options_are_read() -> None:
    source = (
        "echo:?ms_per_token=1.5&slots=3&load_s=0.25&fail=no%20disk&crash_on=x&once=1"
    )
    assert EchoOptions.read(source) == EchoOptions(
        ms_per_token=1.5, slots=3, load_s=0.25, fail="no disk", crash_on="x", once=True
    )
    assert EchoOptions.read("echo:") == EchoOptions()


def test_once_ends_with_the_last_word_of_the_prompt(request_for: Make) -> None:
    room = EngineLimits(model="e", slots=1, context=99, waiting=9, budget=999)
    backend = EchoBackend(room, EchoOptions(once=True))
    backend.submit(request_for("a", chat="one two three"))
    events: list[object] = []
    while backend.is_busy:
        events += backend.step()
    (end,) = [one for one in events if isinstance(one, Finish)]
    assert (end.reason, end.usage.completion_tokens) == (FinishReason.STOP, 3)


def test_like_texts_have_like_vectors() -> None:
    request = EngineRequest(
        id="r",
        scope="org",
        work_class=WorkClass.INTERACTIVE,
        sampling=Sampling(),
        deadline_s=1.0,
        inputs=("the red fox", "the red dog", "one"),
    )
    extras = word_vectors(request).extras
    assert extras is not None
    red, also_red, other = (
        struct.unpack("<16f", base64.b64decode(one)) for one in extras.vectors
    )
    alike = sum(a * b for a, b in zip(red, also_red, strict=True))
    unlike = sum(a * b for a, b in zip(red, other, strict=True))
    assert alike > unlike
    assert word_vectors(request).usage.prompt_tokens == 13
