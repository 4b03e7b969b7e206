"""Every sink hears exactly one end."""

from collections.abc import Callable
from typing import Any

import pytest

from genie.contracts.inference import Fault, FinishReason, Usage
from workers.engine.errors import EngineBusy, EngineGone
from workers.engine.parent.pending import PendingRequests
from workers.engine.protocol import EngineEvent, EngineStats, Finish, Piece

Make = Callable[..., Any]
FAULT = Fault(code="engine_died", message="it died", retryable=True)


def finish(name: str) -> Finish:
    return Finish(id=name, reason=FinishReason.STOP, usage=Usage())


def test_nothing_is_heard_after_the_end(request_for: Make) -> None:
    sinks, heard = PendingRequests(slots=1, waiting=1), list[EngineEvent]()
    sinks.add(request_for("a"), heard.append)
    sinks.deliver(finish("a"))
    sinks.deliver(Piece(id="a", text="late", tokens=1))
    sinks.fail_all(FAULT)
    assert heard == [finish("a")]


def test_an_engine_that_is_gone_says_why(request_for: Make) -> None:
    sinks, heard = PendingRequests(slots=1, waiting=1), list[EngineEvent]()
    sinks.add(request_for("a"), heard.append)
    sinks.fail_all(FAULT)
    sinks.fail_all(Fault(code="engine_closed", message="closed"))
    (end,) = heard
    assert isinstance(end, Finish)
    assert end.fault == FAULT
    with pytest.raises(EngineGone, match="it died"):
        sinks.add(request_for("b"), heard.append)


def test_counts_are_exact_before_the_engine_reports(request_for: Make) -> None:
    sinks = PendingRequests(slots=2, waiting=1)
    for name in "abc":
        sinks.add(request_for(name), lambda _: None)
    with pytest.raises(EngineBusy):
        sinks.add(request_for("d"), lambda _: None)
    sinks.latest = EngineStats(slots=2, tokens_per_s=5.0)
    stats = sinks.stats()
    assert (stats.slots, stats.active, stats.waiting) == (2, 2, 1)
    assert stats.tokens_per_s == 5.0


def test_a_request_that_never_left_is_forgotten_once(request_for: Make) -> None:
    sinks = PendingRequests(slots=1, waiting=0)
    sinks.add(request_for("a"), lambda _: None)
    assert sinks.waited_s() >= 0
    assert sinks.discard("a")
    assert not sinks.discard("a")
    assert sinks.waited_s() == 0
