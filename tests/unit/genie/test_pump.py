"""A consumer thread outlives what goes wrong around it; in memory."""

import threading

import pytest

from genie.messaging.pump import Pump

WAIT_S = 10.0


def test_a_mistake_about_a_loss_does_not_end_a_consumer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    connected = threading.Semaphore(0)

    def fail(_channel: object = None) -> None:
        raise ZeroDivisionError

    pump = Pump(
        "memory://",
        name="mistaken",
        on_connect=lambda _channel: connected.release(),
        on_lost=fail,
    )
    pump.start()
    assert connected.acquire(timeout=WAIT_S)
    assert pump.wait_connected(WAIT_S)
    pump.call(fail)
    assert connected.acquire(timeout=WAIT_S), "its thread has died"
    pump._on_lost = None
    pump.stop(WAIT_S)
    assert "consumer_failed" in capsys.readouterr().out
