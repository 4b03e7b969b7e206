"""The child process: what the parent sees of its life and of its death."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fixtures.engines import (
    PATIENCE_S,
    QUIET,
    Heard,
    echo_spec,
    is_alive,
    pid_of,
    wait_until,
    wanted,
)
from genie.contracts.inference import Fault, FinishReason, Sampling
from genie.contracts.model import Quant
from workers.engine.errors import EngineBusy, EngineGone, LoadFailed
from workers.engine.parent import starter as engines
from workers.engine.parent.process import (
    ChildEnvironment,
    ChildTimeouts,
    EngineProcess,
)
from workers.engine.pipe import Pipe
from workers.engine.protocol import EngineHooks, Load, LoadedEngine, Piece

Make = Callable[..., Any]
ROOT = Path(__file__).parents[5]
QUANT = Quant(name="f32", dtype="float32", weight_bytes=0)
HERE = ChildEnvironment("", 1)
LONG = Sampling(max_tokens=3000)


class Exits:
    """Counts calls of ``on_exit``."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.called = threading.Event()

    def __call__(self, fault: Fault) -> None:
        self.faults.append(fault)
        self.called.set()


@pytest.fixture
def start() -> Iterator[Callable[..., LoadedEngine]]:
    started: list[LoadedEngine] = []

    def make(
        source: str = "echo:",
        *,
        slots: int = 4,
        on_exit: Callable[[Fault], None] = lambda _: None,
        timeouts: ChildTimeouts | None = None,
        **hooks: Any,
    ) -> LoadedEngine:
        loaded = engines.start(
            wanted(echo_spec(source), quant=QUANT, slots=slots, context=4096),
            EngineHooks(on_exit=on_exit, **hooks),
            child_for=partial(EngineProcess, timeouts=timeouts),
        )
        started.append(loaded)
        return loaded

    yield make
    for loaded in started:
        loaded.engine.close()


def test_a_request_is_answered_by_the_child(start: Make, request_for: Make) -> None:
    loaded, heard = start(), Heard()
    loaded.engine.submit(request_for(chat="one two", sampling=Sampling()), heard)
    assert heard.finish.reason is FinishReason.STOP
    text = "".join(one.text for one in heard.events if isinstance(one, Piece))
    assert text == "one two one two"
    assert loaded.fingerprint.startswith("gf1-")


def test_a_cancel_reaches_the_child(start: Make, request_for: Make) -> None:
    loaded, heard = start("echo:?ms_per_token=5"), Heard()
    loaded.engine.submit(request_for(chat="a", sampling=LONG), heard)
    assert heard.begun.wait(PATIENCE_S)
    loaded.engine.cancel("r")
    assert heard.finish.reason is FinishReason.CANCELLED


def test_a_kill_fails_what_runs_within_moments(start: Make, request_for: Make) -> None:
    exits, heard = Exits(), [Heard(), Heard()]
    loaded = start("echo:?ms_per_token=5", on_exit=exits)
    for index, sink in enumerate(heard):
        request = request_for(f"r{index}", chat="a", sampling=LONG)
        loaded.engine.submit(request, sink)
    assert heard[1].begun.wait(PATIENCE_S)
    killed_at = time.monotonic()
    os.kill(pid_of(loaded), signal.SIGKILL)
    for sink in heard:
        fault = sink.finish.fault
        assert fault is not None
        assert (fault.code, fault.retryable) == ("engine_died", True)
        assert "SIGKILL" in fault.message
        # Seen in 45 to 90 ms; the bound only tells moments from a timeout.
        assert sink.ended_at - killed_at < 20
    assert exits.called.wait(PATIENCE_S)
    with pytest.raises(EngineGone, match="SIGKILL"):
        loaded.engine.submit(request_for("late", chat="a"), Heard())
    loaded.engine.close()
    assert [fault.code for fault in exits.faults] == ["engine_died"]


def test_a_poisonous_prompt_kills_only_the_child(
    start: Make, request_for: Make
) -> None:
    exits, heard = Exits(), Heard()
    loaded = start("echo:?crash_on=poison", on_exit=exits)
    loaded.engine.submit(request_for(chat="some poison"), heard)
    fault = heard.finish.fault
    assert fault is not None
    assert "exited with status 70" in fault.message
    assert exits.called.wait(PATIENCE_S)


def test_closing_ends_the_child_and_is_no_accident(
    start: Make, request_for: Make
) -> None:
    exits, heard = Exits(), Heard()
    loaded = start("echo:?ms_per_token=5", on_exit=exits)
    loaded.engine.submit(request_for(chat="a", sampling=LONG), heard)
    pid = pid_of(loaded)
    loaded.engine.close()
    loaded.engine.close()
    fault = heard.finish.fault
    assert fault is not None
    assert fault.code == "engine_closed"
    assert not is_alive(pid)
    assert exits.faults == []


def test_a_child_that_hangs_is_killed(start: Make, request_for: Make) -> None:
    heard = Heard()
    timeouts = ChildTimeouts(hang_s=0.5, close_s=1.0)
    loaded = start("echo:?ms_per_token=5", timeouts=timeouts)
    os.kill(pid_of(loaded), signal.SIGSTOP)
    loaded.engine.submit(request_for(chat="a", sampling=LONG), heard)
    fault = heard.finish.fault
    assert fault is not None
    assert "it hung for" in fault.message


def test_a_child_lives_that_is_silent_while_nobody_waits(
    start: Make, request_for: Make
) -> None:
    loaded, heard = start(timeouts=ChildTimeouts(hang_s=0.5)), Heard()
    loaded.engine._heard_at -= 60.0
    loaded.engine._watch()
    loaded.engine.submit(request_for(chat="a"), heard)
    assert heard.finish.fault is None


def test_a_child_lives_that_takes_long_and_shows_signs_of_life(
    start: Make, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, heard = (
        start("echo:?ms_per_token=5", timeouts=ChildTimeouts(hang_s=30.0)),
        Heard(),
    )
    monkeypatch.setattr(loaded.engine._sinks, "waited_s", lambda: 60.0)
    loaded.engine.submit(request_for(chat="a"), heard)
    loaded.engine._watch()
    assert heard.finish.fault is None


def test_an_idle_child_shows_signs_of_life(start: Make) -> None:
    loaded = start()
    heard_at = loaded.engine._heard_at
    assert wait_until(lambda: loaded.engine._heard_at > heard_at)


def test_a_child_that_ignores_a_polite_stop_is_killed(start: Make) -> None:
    loaded = start(timeouts=ChildTimeouts(close_s=0.3))
    pid = pid_of(loaded)
    os.kill(pid, signal.SIGSTOP)
    loaded.engine.close()
    assert not is_alive(pid)


def test_the_waiting_room_is_bounded(start: Make, request_for: Make) -> None:
    loaded, heard = start("echo:?ms_per_token=50", slots=1), Heard()
    with pytest.raises(EngineBusy, match="at most 16 wait"):
        for index in range(99):
            request = request_for(f"r{index}", chat="a", sampling=LONG)
            loaded.engine.submit(request, heard)
    stats = loaded.engine.stats()
    assert (stats.active, stats.waiting) == (1, 16)


def test_a_load_that_fails_says_why(start: Make) -> None:
    exits = Exits()
    with pytest.raises(LoadFailed, match="no such weights"):
        start("echo:?fail=no+such+weights", on_exit=exits)
    assert exits.faults == []


def test_a_load_that_takes_too_long_is_given_up(start: Make) -> None:
    with pytest.raises(LoadFailed, match="loading took longer"):
        start("echo:?load_s=60", timeouts=ChildTimeouts(load_s=0.3))


def test_a_death_while_loading_is_a_failed_load() -> None:
    load = Load(
        spec=echo_spec("echo:?load_s=60"),
        quant=QUANT,
        path=None,
        slots=1,
        context=99,
        waiting=1,
        budget=99,
        device="cpu",
        threads=1,
    )
    exits = Exits()
    engine = EngineProcess(HERE)
    failures: list[LoadFailed] = []

    def start() -> None:
        try:
            engine.load(load, EngineHooks(on_exit=exits))
        except LoadFailed as failure:
            failures.append(failure)

    thread = threading.Thread(target=start)
    thread.start()
    assert wait_until(lambda: engine.pid != 0)
    os.kill(engine.pid, signal.SIGKILL)
    thread.join(PATIENCE_S)
    (failure,) = failures
    assert failure.fault.code == "engine_died"
    assert "SIGKILL" in failure.fault.message
    assert exits.faults == []


def test_a_child_that_cannot_be_started_is_a_failed_load_and_keeps_no_pipe(
    monkeypatch: pytest.MonkeyPatch, start: Make
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    made: list[Pipe] = []
    pair = Pipe.pair

    def watched() -> tuple[Pipe, Pipe]:
        made.extend(ends := pair())
        return ends

    monkeypatch.setattr(Pipe, "pair", watched)
    with pytest.raises(LoadFailed, match="no more processes"):
        start()
    assert [end.fileno() for end in made] == [-1, -1]


@pytest.mark.parametrize(("slots", "named"), [(0, "slots"), (-1, "slots")])
def test_no_room_to_serve_is_refused(start: Make, slots: int, named: str) -> None:
    with pytest.raises(LoadFailed, match=named):
        start(slots=slots)


def test_a_context_over_the_models_is_refused() -> None:
    with pytest.raises(LoadFailed, match="it holds 2 to 4096"):
        engines.start(wanted(echo_spec(), quant=QUANT, context=5000), QUIET)


def test_the_source_can_cap_the_slots(start: Make) -> None:
    assert start("echo:?slots=2", slots=8).engine.stats().slots == 2


def test_an_engine_takes_as_many_at_once_as_its_source_says(
    start: Make, request_for: Make
) -> None:
    loaded, heard = start("echo:?ms_per_token=20&slots=1024", slots=1024), Heard()
    for index in range(1024):
        request = request_for(f"r{index}", chat="a", sampling=LONG)
        loaded.engine.submit(request, heard)
    child = loaded.engine  # its own word, not the count of what was asked of it
    assert wait_until(lambda: child._sinks.latest.active == 1024, 20)
    stats = child.stats()
    assert (stats.active, stats.waiting) == (1024, 0)


def test_a_child_gets_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENIE_WORKER_SECRET", "s3cret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    environment = ChildEnvironment("0,1", 3).variables()
    assert "s3cret" not in environment.values()
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment["OMP_NUM_THREADS"] == "3"


def test_the_child_itself_sees_no_credentials(
    start: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIE_WORKER_SECRET", "s3cret")
    loaded = start()
    seen = Path(f"/proc/{pid_of(loaded)}/environ").read_bytes()
    assert b"s3cret" not in seen


PARENT = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from fixtures.engines import QUIET, echo_spec, wanted
from genie.contracts.model import Quant
from workers.engine.parent import starter
QUANT = Quant(name="f32", dtype="float32", weight_bytes=0)
loaded = starter.start(wanted(echo_spec(), quant=QUANT), QUIET)
heavy = [name for name in ("torch", "transformers", "numpy") if name in sys.modules]
print(loaded.engine.pid, heavy, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process that has started an engine and printed the child's id."""
    code = PARENT.format(root=str(ROOT), tests=str(ROOT / "tests"))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def test_a_child_dies_with_its_parent_and_the_parent_loads_no_torch(
    parent: subprocess.Popen[str],
) -> None:
    assert parent.stdout is not None
    pid, _, heavy = parent.stdout.readline().strip().partition(" ")
    assert heavy == "[]"
    assert is_alive(int(pid))
    parent.kill()
    assert wait_until(lambda: not is_alive(int(pid)))


def test_a_child_outlives_the_thread_that_loaded_it(
    start: Make, request_for: Make
) -> None:
    loaded: list[LoadedEngine] = []
    thread = threading.Thread(target=lambda: loaded.append(start()))
    thread.start()
    thread.join()
    heard = Heard()
    loaded[0].engine.submit(request_for(chat="a"), heard)
    assert heard.finish.fault is None


@pytest.mark.parametrize("prompt", ["half \ud83d a pair", 2**70, {1, 2}])
def test_a_request_no_message_can_carry_ends_with_the_reason(
    start: Make, request_for: Make, prompt: Any
) -> None:
    loaded, odd, heard = start(), Heard(), Heard()
    loaded.engine.submit(request_for("odd", prompt=prompt), odd)
    assert odd.finish.fault is not None
    assert odd.finish.fault.code == "invalid_request"
    loaded.engine.cancel("half \ud83d a pair")  # nor any cancel
    loaded.engine.submit(request_for("sound", chat="a"), heard)
    assert heard.finish.fault is None


def test_a_request_of_wrong_types_ends_with_the_reason(
    start: Make, request_for: Make
) -> None:
    loaded, odd, heard = start(), Heard(), Heard()
    loaded.engine.submit(request_for("odd", deadline_s="soon", chat="a"), odd)
    assert odd.finish.fault is not None
    assert "malformed" in odd.finish.fault.message
    loaded.engine.submit(request_for("sound", chat="a"), heard)
    assert heard.finish.fault is None
