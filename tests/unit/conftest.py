"""Unit tests touch nothing outside their process."""

import socket

import pytest


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail any unit test that connects: such a test belongs in tests/integration."""

    def refuse(_self: socket.socket, address: object) -> None:
        raise AssertionError(f"a unit test connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
