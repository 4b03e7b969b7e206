"""When an ack leaves: with what the data plane writes next, or at once."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from workers.bidding import consumers
from workers.bidding.consumers import SOON_S, DataPlane


class Wire:
    """What is held on it, and what has left."""

    def __init__(self) -> None:
        self.held: list[bytes] = []
        self.left: list[bytes] = []

    def hold(self, frame: bytes) -> None:
        self.held.append(frame)

    def flush(self) -> None:
        self.left += self.held
        self.held.clear()


@pytest.mark.parametrize(
    ("turn_in_s", "is_held"),
    [
        pytest.param(SOON_S * 0.9, True, id="a turn comes soon"),
        pytest.param(60.0, False, id="none comes soon"),
        pytest.param(0.0, True, id="one is under way"),
        pytest.param(-60.0, False, id="one is held up by the broker"),
    ],
)
def test_an_ack_waits_only_for_a_turn_that_writes_soon(
    monkeypatch: pytest.MonkeyPatch, turn_in_s: float, is_held: bool
) -> None:
    wire: Any = Wire()
    channel: Any = SimpleNamespace(is_shared=True, channel_id=1, hearers={}, wire=wire)
    plane = DataPlane("amqp://", name="w", queues=(), serving=cast("Any", None))
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(consumers, "time", clock)
    plane._look_at = 100.0 + turn_in_s
    plane._ack(channel, 7)
    assert (len(wire.held), len(wire.left)) == ((1, 0) if is_held else (0, 1))
