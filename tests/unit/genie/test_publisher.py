"""What a publisher's lost connection may not have brought is sent on the next one."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import RecoverableConnectionError

from genie.messaging import publisher as module
from genie.messaging.frames import BufferedTransport
from genie.messaging.publisher import Letter, Publisher


class Sock:
    """Takes what there is room for, until it breaks."""

    def __init__(self) -> None:
        self.taken = b""
        self.room, self.is_broken = 1_000_000, False

    def send(self, data: bytes, _flags: int) -> int:
        self._check()
        self.taken += data[: self.room]
        return len(data[: self.room])

    def sendall(self, data: bytes) -> None:
        self._check()
        self.taken += data

    def recv(self, _most: int) -> bytes:
        return b""  # what a reader sees of a connection that is lost

    def shutdown(self, _how: int) -> None:
        self.is_broken = True

    def _check(self) -> None:
        if self.is_broken:
            raise BrokenPipeError


class Connection:
    """A broker's, as far as a publisher uses it."""

    connection_errors = (OSError,)
    channel_errors = ()
    recoverable_connection_errors = (RecoverableConnectionError,)
    connected = True

    def __init__(self) -> None:
        self.sock, self.channels = Sock(), list[Any]()
        wire = BufferedTransport("localhost")
        wire.sock = self.sock
        wire._setup_transport()
        self.connection = SimpleNamespace(transport=wire, bytes_sent=0)

    def channel(self) -> Any:
        made = SimpleNamespace(
            channel_id=len(self.channels) + 1,
            connection=self.connection,
            wire=self.connection.transport,
            hearers={},
            is_shared=True,
            confirm_select=lambda: None,
            events={"basic_ack": set(), "basic_nack": set()},
        )
        self.channels.append(made)
        return made

    def release(self) -> None:
        """Nothing is left to close."""

    def confirm(self, tag: int) -> None:
        for channel in self.channels:
            for accept in channel.events["basic_ack"]:
                accept(tag, True)

    def said(self) -> list[str]:
        """The letters it took, whole ones."""
        words = self.sock.taken.split(b"<")[1:]
        return [word.partition(b">")[0].decode() for word in words if b">" in word]


class Desk:
    """A publisher whose turns the test takes."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.publisher = Publisher("amqp://nowhere", name="test")

    def connect(self, _url: str, *, name: str) -> Connection:
        assert name == "test"
        self.connections.append(Connection())
        return self.connections[-1]

    def send(self, *words: str) -> None:
        """Hand over letters; those in capitals are confirmed."""
        for word in words:
            body = f"<{word}>".encode()
            self.publisher.send(Letter(to="q", body=body, confirmed=word.isupper()))

    def turn(self, *, has_come: bool = False) -> None:
        self.publisher._turn(has_come=has_come)

    def lose(self) -> list[str]:
        """The publisher hears of its loss; what it says on the next connection."""
        with pytest.raises(module._Cut):
            self.turn(has_come=True)
        self.turn()
        return self.connections[-1].said()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """One whose connection is open, with nothing under way on it."""
    made = Desk()
    monkeypatch.setattr("genie.messaging.broker.connection", made.connect)
    monkeypatch.setattr(module, "KEPT_S", -1.0)
    made.send("FIRST", "first")
    made.turn()
    made.connections[0].confirm(1)
    made.send("second")  # with it the one before is kept no more
    monkeypatch.setattr(module, "KEPT_S", 1_000.0)
    yield made


def test_gathered_letters_whose_write_failed_are_sent_once_more_and_in_order(
    desk: Desk,
) -> None:
    desk.connections[0].sock.is_broken = True
    with desk.publisher.gathered():
        desk.send("a", "B", "c")
    assert desk.connections[0].said() == ["FIRST", "first", "second"]
    assert desk.lose() == ["B", "second", "a", "c"]


def test_gathered_letters_that_the_socket_took_half_of_are_sent_once_more(
    desk: Desk,
) -> None:
    sock = desk.connections[0].sock
    sock.room = 150  # the first, and half of the second
    with desk.publisher.gathered():
        desk.send("a", "B", "c")
    assert desk.connections[0].said()[3:] == ["a"]
    sock.is_broken = True
    desk.send("d")
    assert desk.lose() == ["B", "second", "a", "c", "d"]


def test_a_letter_the_kernel_took_as_the_connection_broke_is_sent_once_more(
    desk: Desk,
) -> None:
    desk.send("a", "B", "C")
    desk.connections[0].confirm(2)
    assert desk.connections[0].said()[-3:] == ["a", "B", "C"]
    assert desk.lose() == ["C", "second", "a"]


def test_a_letter_that_left_long_ago_is_not_sent_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.send("a")
    monkeypatch.setattr(module, "KEPT_S", -1.0)
    desk.turn()
    desk.send("b")
    assert desk.lose() == ["b"]


def test_a_letter_that_waits_to_leave_is_kept_however_long(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_S", -1.0)
    desk.connections[0].sock.room = 0
    desk.send("a", "b")
    assert desk.lose() == ["second", "a", "b"]
