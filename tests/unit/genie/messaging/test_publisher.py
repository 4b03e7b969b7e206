"""What becomes of letters when the broker refuses them or the connection is lost."""

from collections.abc import Iterator

import pytest

from fixtures.twin_link import TwinBroker, TwinLink
from genie.messaging import publisher as module
from genie.messaging.link import Refused, Unroutable
from genie.messaging.publisher import Letter, Publisher
from genie.messaging.queues import QueueSpec


class Desk:
    """A publisher whose broker is the test."""

    def __init__(self, publisher: Publisher, link: TwinLink) -> None:
        self.publisher, self.link = publisher, link
        self.arrived: list[str] = []

    def send(self, *words: str) -> None:
        """Hand over letters; those in capitals are confirmed."""
        for word in words:
            self.publisher.send(
                Letter(
                    key="q",
                    body=word.encode(),
                    confirmed=word.isupper(),
                    on_sent=lambda word=word: self.arrived.append(word),  # type: ignore[misc]  # one each
                )
            )

    @property
    def said(self) -> str:
        return " ".join(body.decode() for body in self.link.sent)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """One that is connected."""
    broker = TwinBroker()
    monkeypatch.setattr("genie.messaging.broker.connect", broker.connect)
    publisher = Publisher("amqp://nowhere", name="test")
    (link,) = broker.links
    link.up()
    yield Desk(publisher, link)


def test_letters_leave_in_order_and_confirmed_ones_say_when_they_arrived(
    desk: Desk,
) -> None:
    desk.send("a", "B", "c", "D")
    assert desk.said == "a B c D"
    assert desk.arrived == []
    desk.link.confirm()
    assert desk.arrived == ["B"]


def test_what_was_not_confirmed_when_the_connection_was_lost_goes_again_in_order(
    desk: Desk,
) -> None:
    desk.send("A", "B", "c", "D")
    desk.link.confirm()
    desk.link.down()
    desk.send("E", "f")
    desk.link.up()
    assert desk.said == "B D E c f"
    assert desk.arrived == ["A"]


def test_a_plain_letter_that_left_long_ago_is_not_sent_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_S", -1.0)
    desk.send("a", "b")
    desk.link.down()
    desk.link.up()
    assert desk.said == "b"


def test_a_plain_letter_that_waits_to_be_written_is_kept_however_long(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_S", -1.0)
    desk.link.is_writing = True
    desk.send("a", "b")
    desk.link.down()
    desk.link.up()
    assert desk.said == "a b"


@pytest.mark.parametrize("error", [Refused("no"), Unroutable("no")])
def test_a_letter_the_broker_refused_is_sent_again_after_a_while(
    desk: Desk, error: Exception
) -> None:
    desk.send("A", "B")
    desk.link.confirm(error)
    desk.link.confirm()
    assert (desk.said, desk.arrived) == ("A B", ["B"])
    desk.link.later.pop()()
    assert desk.said == "A B A"
    desk.link.confirm()
    assert desk.arrived == ["B", "A"]


def test_a_letter_sent_just_before_an_alarm_is_sent_again_only_if_it_was_lost(
    desk: Desk,
) -> None:
    desk.send("A", "B")
    desk.link.block()
    desk.link.events.unblocked()
    desk.link.confirm()
    assert (desk.said, desk.arrived, desk.link.later) == ("A B", ["A"], [])
    desk.link.down()
    desk.link.up()
    assert desk.said == "B"


def test_a_plain_letter_does_not_wait_for_a_confirmed_one_that_was_refused(
    desk: Desk,
) -> None:
    desk.send("A")
    desk.link.confirm(Refused("no"))
    desk.send("b")
    assert desk.said == "A b"


def test_a_queue_is_declared_on_each_connection_and_when_it_was_gone(
    desk: Desk,
) -> None:
    letter = Letter(key="q", body=b"A", confirmed=True, queue=QueueSpec(name="q"))
    desk.publisher.send(letter)
    desk.publisher.send(letter)
    desk.link.down()
    desk.link.up()
    assert (desk.link.declared, desk.said) == (["q", "q"], "A A")
    desk.link.confirm(Unroutable("no"))
    desk.link.later.pop()()
    assert (desk.link.declared, desk.said) == (["q", "q", "q"], "A A A")


def test_a_letter_whose_queue_is_refused_holds_up_no_other(desk: Desk) -> None:
    desk.link.refused.add("bad")
    for name in ("bad", "good"):
        queue = QueueSpec(name=name)
        body = name.encode()
        desk.publisher.send(Letter(key=name, body=body, confirmed=True, queue=queue))
    desk.link.later.pop()()
    assert desk.said == "good"
    desk.link.refused.clear()
    desk.link.later.pop()()
    assert desk.said == "good bad"
