"""What one engine step says to one asker is one message, in the order it was said."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from genie.contracts import codec
from genie.contracts.inference import Chunk
from genie.messaging.publisher import Letter
from workers.serving.reports import TOGETHER_BYTES, EventReporter

NEW, OLD = "replies.web1", "reply.web2"


class Out:
    """Takes letters, and says when a write begins and ends."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.is_gathering = False

    def send(self, letter: Letter) -> None:
        self.sent.append((letter.key, letter.body))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        self.is_gathering = True
        yield
        self.is_gathering = False

    def seqs(self) -> list[tuple[str, list[int]]]:
        """Which chunks came together, and to whom."""
        return [
            (to, [_seq(event) for event in codec.decode_events(body)])
            for to, body in self.sent
        ]


def _seq(event: object) -> int:
    assert isinstance(event, Chunk)
    return event.seq


def say(mail: EventReporter, to: str, *seqs: int, text: str = "x") -> None:
    mail.say(
        to,
        [Chunk(job_id="j", attempt_id="a", seq=n, text=text, tokens=1) for n in seqs],
    )


def test_what_is_gathered_leaves_in_one_message_for_each_asker() -> None:
    out = Out()
    mail = EventReporter(out)
    with mail.gathered():
        say(mail, NEW, 0, 1)
        say(mail, "replies.web3", 7)
        say(mail, NEW, 2)
        assert out.sent == []
    assert out.seqs() == [(NEW, [0, 1, 2]), ("replies.web3", [7])]


def test_an_asker_of_the_release_before_gets_one_event_in_a_message() -> None:
    out = Out()
    mail = EventReporter(out)
    with mail.gathered():
        say(mail, OLD, 0, 1)
    assert out.seqs() == [(OLD, [0]), (OLD, [1])]
    assert all(codec.decode_event(body) for _to, body in out.sent)


def test_what_is_said_alone_leaves_at_once_and_as_one_event() -> None:
    out = Out()
    say(EventReporter(out), NEW, 0)
    ((to, body),) = out.sent
    assert (to, _seq(codec.decode_event(body))) == (NEW, 0)


def test_another_thread_overtakes_nothing_that_is_gathered() -> None:
    out = Out()
    mail = EventReporter(out)
    with mail.gathered():
        say(mail, NEW, 0)
        other = threading.Thread(target=say, args=(mail, NEW, 1))
        other.start()
        other.join(5)
        say(mail, NEW, 2)
    assert [seq for _to, seqs in out.seqs() for seq in seqs] == [0, 1, 2]


def test_what_grows_large_does_not_wait_for_the_end() -> None:
    out = Out()
    mail = EventReporter(out)
    with mail.gathered():
        for n in range(5):
            say(mail, NEW, n, text="x" * (TOGETHER_BYTES // 2))
        assert len(out.sent) >= 3
    assert [seq for _to, seqs in out.seqs() for seq in seqs] == list(range(5))
    assert max(len(body) for _to, body in out.sent) <= TOGETHER_BYTES + 256


def test_a_step_that_fails_sends_what_it_has_said() -> None:
    out = Out()
    mail = EventReporter(out)
    try:
        with mail.gathered():
            say(mail, NEW, 0)
            raise ValueError("a mistake")
    except ValueError:
        say(mail, NEW, 1)
    assert out.seqs() == [(NEW, [0]), (NEW, [1])]
