"""Frames of the pipe: a batch there and back, strictly."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from genie.contracts.fleet import LoadStage
from genie.contracts.inference import FinishReason, Usage
from workers.engine import wire
from workers.engine.protocol import EngineStats, Finish, Piece

Make = Callable[..., Any]


def test_commands_arrive_as_they_were_sent(request_for: Make) -> None:
    batch = (
        wire.Submit(request=request_for(chat="naïve ☕")),
        wire.Cancel(id="r"),
        wire.Stop(),
    )
    assert wire.decode_commands(wire.encode(batch)) == batch


def test_reports_arrive_as_they_were_sent() -> None:
    batch = (
        Piece(id="r", text="☕", tokens=2),
        Finish(id="r", reason=FinishReason.STOP, usage=Usage()),
        EngineStats(slots=4),
        wire.LoadProgress(share=0.5, stage=LoadStage.READING),
        wire.EngineReady(fingerprint="gf1-x", peak_bytes=9),
    )
    assert wire.decode_reports(wire.encode(batch)) == batch


def test_a_child_of_a_later_release_than_its_parent_is_understood() -> None:
    frame = msgspec.msgpack.encode([{"kind": "cancel", "id": "r", "now": True}])
    assert wire.decode_commands(frame) == (wire.Cancel(id="r"),)


def test_a_frame_nobody_can_read_ends_its_requests_with_the_reason() -> None:
    request = {"id": "r1", "scope": 7}
    frame = msgspec.msgpack.encode([{"kind": "submit", "request": request}])
    with pytest.raises(msgspec.ValidationError):
        wire.decode_commands(frame)
    (finish,) = wire.failures_of_unreadable(frame, "Expected `str`, got `int`")
    assert finish.id == "r1"
    assert finish.fault is not None
    assert "Expected `str`" in finish.fault.message


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x80", b"\xa1\xff"])
def test_noise_on_the_pipe_ends_nobody(frame: bytes) -> None:
    assert wire.failures_of_unreadable(frame, "noise") == []
