"""The loader reads answers as they come, and counts what it read."""

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.common.loader import (
    Answer,
    Connection,
    Head,
    Load,
    Loader,
    Target,
    dechunked,
    has_text,
    text,
)

EVENT = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n'
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


def answer(
    at: float,
    *,
    first: float | None = None,
    seconds: float = 1.0,
    status: int = 200,
    body: bytes = b"",
) -> Answer:
    return Answer(
        status=status,
        asked_at=at,
        ended_at=at + seconds,
        first_at=None if first is None else at + first,
        body=body,
    )


def load(*answers: Answer, seconds: float = 2.0, expect: bytes = b"") -> Load:
    return Load(answers=answers, seconds=seconds, expect=expect)


class Wire(asyncio.Transport):
    """The server's side of a connection, written down."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.is_closed = True


def told(*pieces: bytes | None) -> tuple[Answer, Wire]:
    """What a connection makes of these pieces; None is the end of the connection."""

    async def ask() -> tuple[Answer, Wire]:
        connection, wire = Connection(), Wire()
        connection.connection_made(wire)
        waiting = connection.send(b"GET")
        for piece in pieces:
            if piece is None:
                connection.connection_lost(None)
            else:
                connection.data_received(piece)
        return await asyncio.wait_for(waiting, 1), wire

    return asyncio.run(ask())


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def test_an_answer_with_a_length_ends_there_however_it_is_cut() -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
    assert told(*bytewise(said))[0].body == b"one"


def test_a_chunked_answer_ends_with_its_last_chunk_however_it_is_cut() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    found, _ = told(*bytewise(head + chunked(ROLE, EVENT % b"one", EVENT % b" two")))
    assert text(found.body) == "one two"
    assert found.first_at is not None
    assert found.asked_at <= found.first_at <= found.ended_at


def test_a_head_that_ends_like_a_last_chunk_is_not_the_end() -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Id: a0\r\n\r\n"
    head = Head.read(data)
    assert head is not None
    assert not head.is_whole(data)
    assert head.is_whole(data + b"2\r\nok\r\n0\r\n\r\n")


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    found, _ = told(b"HTTP/1.1 200 OK\r\n\r\non", b"e", None)
    assert (found.status, found.body) == (200, b"one")


def test_a_connection_that_breaks_in_an_answer_is_no_answer() -> None:
    found, _ = told(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\non", None)
    assert found.status == 0


def test_a_server_that_says_close_is_not_asked_again() -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    _, wire = told(head)
    assert wire.is_closed


def test_a_head_is_read_when_it_is_whole() -> None:
    assert Head.read(b"HTTP/1.1 503 No\r\nContent-Le") is None
    head = Head.read(b"HTTP/1.1 503 No\r\nRetry-After: 1\r\n\r\n")
    assert head is not None
    assert (head.status, head.ends_with_connection) == (503, True)


def test_chunks_are_put_together_by_their_lengths() -> None:
    assert dechunked(chunked(b"5\r\nx", b"y")) == b"5\r\nxy"


def test_an_empty_text_is_no_first_token() -> None:
    assert not has_text(ROLE)
    assert has_text(ROLE + EVENT % b"one")


def test_a_request_says_how_long_it_is() -> None:
    request = Target.post(80, "/v1", {"a": "é"}, key="k").request
    head, _, body = request.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head


def test_wrong_answers_are_counted_apart_and_named() -> None:
    wrong = answer(0, status=503, body=b"too many")
    found = load(answer(0, body=b"one"), answer(0, body=b"no"), wrong, expect=b"one")
    assert (found.failed, found.statuses) == (2, {200: 2, 503: 1})
    assert found.per_s == 0.5
    with pytest.raises(RuntimeError, match="genie: 2 of 3 answers were wrong"):
        found.check("genie", 0.5)
    found.check("genie", 0.7)


def test_latencies_are_those_of_good_answers() -> None:
    slow = answer(0, seconds=9.0, status=500)
    found = load(answer(0, seconds=1.0), answer(0, seconds=3.0), slow)
    assert found.ms() == (2000.0, 3000.0)


def test_no_good_answer_has_no_latency() -> None:
    with pytest.raises(RuntimeError, match="no good answer"):
        load(answer(0, status=500)).ms()


def test_the_first_texts_are_those_of_who_asked_first() -> None:
    later = [answer(5.0, first=0.1), answer(6.0, first=0.1)]
    found = load(answer(0.0, first=0.3), *later, answer(0.1, first=0.5))
    assert found.first_ms(2) == pytest.approx((400.0, 500.0))


def test_tokens_are_the_words_of_good_streams() -> None:
    body = chunked(ROLE, EVENT % b"one two", EVENT % b" three", b"data: [DONE]\n\n")
    refused = answer(0, status=503, body=b'{"error":{"message":"too many"}}')
    assert load(answer(0, body=body), answer(0, body=body), refused).tokens() == 6


def test_streams_that_overlap_are_open_at_once() -> None:
    one, two, three = (answer(at, first=0.1) for at in (0.0, 0.5, 1.05))
    assert load(one, two, three).most_open() == 2


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"


class Server:
    """Answers at once, over connections that it may close after an answer."""

    def __init__(self, *, closes_after: int = 1_000_000) -> None:
        self.opened = self.asked = 0
        self._closes_after = closes_after

    async def connect(self, _port: int) -> Connection:
        self.opened += 1
        connection = Connection()
        connection.connection_made(Answering(self, connection, self._closes_after))
        return connection


class Answering(Wire):
    def __init__(self, server: Server, connection: Connection, left: int) -> None:
        super().__init__()
        self._server, self._connection, self._left = server, connection, left

    def write(self, data: bytes | bytearray | memoryview) -> None:
        soon = asyncio.get_running_loop().call_soon
        if self._left == 0:
            soon(self._connection.connection_lost, None)
            return
        self._left -= 1
        self._server.asked += 1
        soon(self._connection.data_received, OK)


def loader(server: Server) -> Loader:
    return Loader(Target(port=1, request=b"GET", expect=b"one"), server.connect)


def test_steady_clients_ask_again_and_again_over_kept_connections() -> None:
    server = Server()
    found = asyncio.run(loader(server).steady(clients=3, seconds=0.05))
    assert server.opened <= 3 < server.asked
    assert len(found.good) == server.asked


def test_a_burst_has_a_connection_for_each_client() -> None:
    server = Server()
    found = asyncio.run(loader(server).burst(4, each=3))
    assert (server.opened, len(found.good)) == (4, 12)


def test_a_connection_that_a_server_has_closed_is_opened_anew() -> None:
    server = Server(closes_after=1)
    one = loader(server)

    async def twice() -> list[Answer]:
        return [await one.ask(), await one.ask()]

    answers = asyncio.run(twice())
    assert [answer.status for answer in answers] == [200, 200]
    assert server.opened == 2


def test_requests_are_asked_at_their_moments() -> None:
    found = asyncio.run(loader(Server()).at([0.0, 0.05]))
    first, second = sorted(one.asked_at for one in found.good)
    assert 0.04 < second - first < 0.5


def test_the_same_seed_asks_as_often() -> None:
    def count(seed: int) -> int:
        load = loader(Server()).arriving(per_s=400, seconds=0.1, seed=seed)
        return len(asyncio.run(load).answers)

    assert count(1) == count(1)
    assert 10 < count(1) < 120
