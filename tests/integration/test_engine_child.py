"""The engine's real child process: noise, death and memory, with a tiny model."""

import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures import tiny
from fixtures.engines import (
    Heard,
    asking,
    is_alive,
    pid_of,
    resident_bytes,
    wait_until,
    wanted,
)
from genie.contracts.fleet import DesiredModel, HostStatus, ModelState
from genie.contracts.inference import Fault, FinishReason
from genie.contracts.model import Capability, ModelSpec
from workers.engine.errors import EngineBusy, EngineGone
from workers.engine.parent import starter as engines
from workers.engine.protocol import EngineHooks, EngineRequest, LoadedEngine
from workers.files.files import LocalModel
from workers.models.residency import MachineAccess, Residency
from workers.settings import WorkerSettings

pytestmark = pytest.mark.timeout(600)

FUZZED = int(os.environ.get("GENIE_FUZZ", "3000"))
"""Submissions of the fuzz test; `make fuzz` makes ten thousand."""

LIVE = 16
BYTES = 64 * 1024**2


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path = tiny.make("llama", tmp_path_factory.mktemp("tiny"))
    able = (Capability.CHAT, Capability.JSON)
    return msgspec.structs.replace(tiny.spec_of(path), capabilities=able)


@pytest.fixture(scope="module")
def start(spec: ModelSpec) -> Iterator[Callable[..., LoadedEngine]]:
    started: list[LoadedEngine] = []

    def make(
        on_exit: Callable[[Fault], None] | None = None,
        slots: int = 4,
        context: int = 256,
    ) -> LoadedEngine:
        path = Path(spec.source.removeprefix("path:"))
        hooks = EngineHooks(on_exit=on_exit or (lambda _: None))
        loaded = engines.start(
            wanted(spec, path=path, slots=slots, context=context), hooks
        )
        started.append(loaded)
        return loaded

    yield make
    for loaded in started:
        loaded.engine.close()


ODD_NUMBERS = [0, -1, 1, 0.5, 1e308, -1e308, 2**63, -(2**70), math.nan, math.inf]
ODD_TEXTS = [
    *("", "x", "\0", "\ud83d\ude00" * 40, "naïve ☕", "\u202e", "<|im_end|>", "}{{"),
    "{% for x in y %}",
    "long " * 400,
]
ODD_SCHEMAS = [
    *("", "{", "null", "true", "[]", "{}", '{"type": "integer"}', '{"enum": []}'),
    *('{"$ref": "#"}', '{"$ref": "#/nowhere"}', '{"$ref": "http://127.0.0.1/x"}'),
    *('{"type": "string", "pattern": "("}', '{"type": "string", "format": "email"}'),
    '{"type": "string", "pattern": "(a+)+$", "maxLength": 3}',
    '{"type": "string", "minLength": 1000000000, "maxLength": 1}',
    '{"type": "array", "items": {"$ref": "#"}, "minItems": 99999999}',
    '{"type": "integer", "minimum": 1e308, "maximum": -1e308}',
    '{"type": "object", "additionalProperties": {"$ref": "#"}}',
    '{"anyOf": [' * 300 + "{}" + "]}" * 300,
    '{"properties": {"x": {"allOf": [{"type": "string"}, {"type": "null"}]}}}',
]


def odd(chance: random.Random, depth: int = 0) -> Any:
    """Any JSON value, of the kinds that break things."""
    kinds: list[Callable[[], Any]] = [
        lambda: chance.choice(ODD_NUMBERS),
        lambda: chance.choice(ODD_TEXTS),
        lambda: chance.choice([None, True, False]),
        lambda: chance.randint(-10, 300),
    ]
    if depth < 3:
        few = range(chance.randint(0, 3))
        kinds += [
            lambda: [odd(chance, depth + 1) for _ in few],
            lambda: {chance.choice(ODD_TEXTS): odd(chance, depth + 1) for _ in few},
        ]
    return chance.choice(kinds)()


def submission(chance: random.Random, number: int) -> dict[str, Any]:
    """A request as JSON: some fields sound, some odd, some missing, some strange."""
    sampling: dict[str, Any] = {"max_tokens": chance.randint(0, 4)}
    plausible: dict[str, Callable[[], Any]] = {
        "temperature": lambda: chance.choice([0, 0.7, 1e-30, 99, -1, 1e308]),
        "top_p": lambda: chance.choice([0, 0.5, 1, 1.5]),
        "top_k": lambda: chance.choice([0, 1, 10**9]),
        "min_p": lambda: chance.choice([0, 1, 2]),
        "seed": lambda: chance.choice([0, -5, 2**62]),
        "stop": lambda: [chance.choice(ODD_TEXTS) for _ in range(2)],
        "presence_penalty": lambda: chance.choice([0, 2, -100, 1e300]),
        "repetition_penalty": lambda: chance.choice([0, 1, 0.01, 100]),
        "logit_bias": lambda: {chance.choice(["0", "257", "258", "x"]): 1e308},
        "min_tokens": lambda: chance.randint(0, 6),
        "logprobs": lambda: chance.choice([0, 3, 20, 21]),
        "ignore_eos": lambda: chance.choice([True, False]),
    }
    for name in chance.sample(sorted(plausible), chance.randint(0, 4)):
        sampling[name] = plausible[name]()
    said: dict[str, Any] = {
        "id": f"f{number}",
        "scope": chance.choice(["acme", "globex"]),
        "work_class": chance.choice(["interactive", "job", "batch"]),
        "deadline_s": chance.choice([60.0, 0.0, 1e-9]),
        "sampling": sampling,
    }
    if chance.random() < 0.5:
        said["prompt"] = chance.choice(ODD_TEXTS)
    else:
        roles = ["user", "system", "assistant", "user<|im_end|>", ""]
        said["messages"] = [
            {"role": chance.choice(roles), "content": chance.choice(ODD_TEXTS)}
            for _ in range(chance.randint(0, 3))
        ]
    shaped: dict[str, Callable[[], Any]] = {
        "json_schema": lambda: chance.choice(ODD_SCHEMAS),
        "tools": lambda: [
            {"name": name, "parameters": chance.choice(ODD_SCHEMAS)}
            for name in chance.sample(ODD_TEXTS, chance.randint(0, 2))
        ],
        "force_tool": lambda: chance.choice(ODD_TEXTS),
        "resume": lambda: chance.choice(ODD_TEXTS),
        "inputs": lambda: [chance.choice(ODD_TEXTS)],
    }
    for name in chance.sample(sorted(shaped), chance.choice([0, 0, 1, 2])):
        said[name] = shaped[name]()
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        where = chance.choice([said, sampling])
        where[chance.choice([*where, "unknown"])] = odd(chance)
    return said


def test_no_submission_kills_the_engine(start: Callable[..., LoadedEngine]) -> None:
    chance = random.Random(20)
    loaded = start()
    pid, refused = pid_of(loaded), 0
    live: dict[str, Heard] = {}
    heard: list[Heard] = []
    for number in range(FUZZED):
        said = submission(chance, number)
        try:
            request = msgspec.convert(said, EngineRequest)
            json.dumps(said)
        except (msgspec.ValidationError, ValueError):
            refused += 1
            # Past the strict codec too: what a careless caller could build.
            request = unchecked(said, number)
        if request.id in live:  # ids name one request in flight: an odd one came twice
            request = msgspec.structs.replace(request, id=f"{request.id}{number}")
        sink = Heard()
        if request.id in live:  # an odd id once more: no caller has one twice in flight
            assert live[request.id].finish is not None
        submit(loaded, request, sink)
        live[request.id] = sink
        heard.append(sink)
        if chance.random() < 0.1:
            loaded.engine.cancel(chance.choice(sorted(live)))
    for sink in heard:
        assert sink.finish is not None
    last = Heard()
    loaded.engine.submit(asking("last", "hello"), last)
    assert last.finish.reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert pid_of(loaded) == pid
    assert is_alive(pid)
    # Of both kinds there were many: refused by the codec, and let through.
    assert FUZZED / 20 < refused < FUZZED * 0.9


def unchecked(said: dict[str, Any], number: int) -> EngineRequest:
    """A request built as Python lets one: no field was looked at."""
    fields = EngineRequest.__struct_fields__
    known = {name: value for name, value in said.items() if name in fields}
    sound: dict[str, Any] = {"scope": "acme", "work_class": "job", "deadline_s": 1.0}
    return EngineRequest(**({"sampling": {}} | sound | known | {"id": f"u{number}"}))


def submit(loaded: LoadedEngine, request: EngineRequest, sink: Heard) -> None:
    """Submit, waiting while the engine is full."""
    for _ in range(3000):
        try:
            loaded.engine.submit(request, sink)
        except EngineBusy:
            time.sleep(0.01)
        else:
            return
    raise AssertionError("the engine stayed full for 30 s")


def test_a_killed_child_ends_sixteen_requests_and_comes_back_by_itself(
    spec: ModelSpec, start: Callable[..., LoadedEngine]
) -> None:
    ready = threading.Semaphore(0)
    residency = Residency(
        MachineAccess(
            fetch=lambda spec, _: LocalModel(
                path=Path(spec.source.removeprefix("path:")), files=()
            ),
            start=engines.start,
            read=lambda: (roomy(), ()),
        ),
        WorkerSettings(
            url="http://cloud", threads=1, memory_reserve_share=0.0, drain_s=1.0
        ),
        on_change=ready.release,
        wait_idle=lambda *_: True,
    )
    desired = DesiredModel(
        spec=spec, quant="f32", slots=LIVE, context=256, reason="test"
    )
    residency.start()
    try:
        residency.desire([desired])
        first = until_ready(residency, ready)
        heard = [Heard() for _ in range(LIVE)]
        for at, sink in enumerate(heard):
            request = asking(f"r{at}", "x", tokens=250, ignore_eos=True)
            first.engine.submit(request, sink)
        killed_at = time.monotonic()
        os.kill(pid_of(first), signal.SIGKILL)
        for sink in heard:
            fault = sink.finish.fault
            assert fault is not None
            assert (fault.code, fault.retryable) == ("engine_died", True)
            assert "SIGKILL" in fault.message
        assert max(sink.ended_at for sink in heard) - killed_at < 2
        with pytest.raises(EngineGone):
            first.engine.submit(asking("late", "x"), Heard())
        second = until_ready(residency, ready, other_than=first)
        again = Heard()
        second.engine.submit(asking("again", "x"), again)
        assert again.finish.fault is None
    finally:
        residency.stop()


def until_ready(
    residency: Residency, ready: threading.Semaphore, other_than: Any = None
) -> LoadedEngine:
    """The engine, once it serves; woken by every change of a state."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = residency.ready().get("tiny")
        if found is not None and found is not other_than:
            assert residency.statuses()[0].state is ModelState.READY
            assert isinstance(found, LoadedEngine)
            return found
        ready.acquire(timeout=1)
    raise AssertionError("the model was not ready within 120 s")


def roomy() -> HostStatus:
    return HostStatus(
        cpu_count=2,
        memory_total_bytes=64 * 1024**3,
        memory_available_bytes=64 * 1024**3,
        disk_free_bytes=0,
    )


def test_unloading_gives_all_memory_back(start: Callable[..., LoadedEngine]) -> None:
    start().engine.close()
    before = resident_bytes(os.getpid())
    for _ in range(2):
        loaded = start(slots=8, context=512)
        pid = pid_of(loaded)
        # The child holds hundreds of megabytes; its end is what gives them back.
        assert resident_bytes(pid) > 2 * BYTES
        heard = Heard()
        loaded.engine.submit(asking("r", "hello"), heard)
        assert heard.finish.fault is None
        loaded.engine.close()
        assert wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]  # bound now
    assert resident_bytes(os.getpid()) - before < BYTES
