"""Frames over a socket: whole, in order, and never waited for on the worker's side."""

import threading
import time
from collections.abc import Iterator

import pytest

from workers.engine.pipe import READ_BYTES, Pipe

LARGE = b"x" * 5_000_000

Ends = tuple[Pipe, Pipe]


@pytest.fixture
def pipe() -> Iterator[Ends]:
    ends = Pipe.pair()
    yield ends
    for end in ends:
        end.close()


def read(pipe: Pipe, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        assert pipe.wait(10.0), "nothing came"
        found += pipe.frames()
    return found


def test_frames_arrive_whole_and_in_order_however_they_were_cut(pipe: Ends) -> None:
    ours, theirs = pipe
    sent = [b"", b"one", LARGE, b"two"]

    def send() -> None:
        for frame in sent:
            ours.send(frame)

    sender = threading.Thread(target=send)
    sender.start()
    assert read(theirs, len(sent)) == sent
    sender.join()


def test_nothing_is_read_where_nothing_has_come(pipe: Ends) -> None:
    ours, theirs = pipe
    assert not theirs.wait(0.0)
    assert theirs.frames() == []
    ours.close()


def test_half_a_frame_is_kept_until_the_rest_comes(pipe: Ends) -> None:
    ours, theirs = pipe
    whole = len(b"words").to_bytes(4, "little") + b"words"
    ours._socket.sendall(whole[:6])
    assert theirs.wait(1.0)
    assert theirs.frames() == []
    ours._socket.sendall(whole[6:])
    assert read(theirs, 1) == [b"words"]


def test_all_that_is_here_comes_at_once_however_much_it_is(pipe: Ends) -> None:
    ours, theirs = pipe
    sent = [b"x" * (READ_BYTES // 2), b"y" * READ_BYTES]  # a socket takes that many
    for frame in sent:
        ours.send(frame)
    ours.close()
    assert theirs.frames() == sent
    with pytest.raises(EOFError):
        theirs.frames()


def test_one_frame_at_a_time_leaves_the_others(pipe: Ends) -> None:
    ours, theirs = pipe
    for frame in (b"one", b"two", b"three"):
        ours.send(frame)
    assert theirs.frame() == b"one"
    assert theirs.wait(0.0)
    assert theirs.frames() == [b"two", b"three"]
    assert not theirs.wait(0.0)


def test_who_sends_soon_does_not_wait_for_a_reader_that_is_busy(pipe: Ends) -> None:
    ours, theirs = pipe
    began = time.monotonic()
    sent = [LARGE, b"one", LARGE, b"two"]
    for frame in sent:
        ours.send_soon(frame)  # nobody reads: a waiting write would never return
    assert time.monotonic() - began < 30.0
    assert read(theirs, len(sent)) == sent
    ours.send_soon(b"three")
    assert read(theirs, 1) == [b"three"]


def test_the_end_of_the_other_side_is_heard_after_its_last_words(pipe: Ends) -> None:
    ours, theirs = pipe
    ours.send(b"last")
    ours.close()
    assert theirs.frame() == b"last"
    with pytest.raises(EOFError):
        theirs.frame()


def test_last_words_are_heard_of_one_that_ended_without_listening(pipe: Ends) -> None:
    ours, theirs = pipe
    theirs.send(b"never read")  # so that the end of the other one is an error here
    last = b"x" * (READ_BYTES - 4)  # one read, and no sign that there is no more
    ours.send(last)
    ours.close()
    assert theirs.frames() == [last]
    with pytest.raises((EOFError, OSError)):
        theirs.frames()


def test_a_closed_pipe_takes_nothing_more(pipe: Ends) -> None:
    ours, theirs = pipe
    theirs.close()
    with pytest.raises(OSError, match="roken pipe"):
        ours.send_soon(b"one")
