"""One asyncio loader for every side: whole requests and streams over HTTP/1.1.

A `Target` says where to ask and what. Connections are kept and used again as the server
allows; what an answer holds is looked at after the load, when its time is taken.
"""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common.figures import p50, p99

HOST = "127.0.0.1"
PATIENCE_S = 120.0
"""How long the last answer of a load may take."""

TEXT, NO_TEXT = b'"content":"', b'"content":""'
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A port of this machine and the request it gets.

    ``expect`` is in the body of every good answer.
    """

    port: int
    request: bytes
    expect: bytes

    @classmethod
    def post(
        cls,
        port: int,
        path: str,
        document: object,
        *,
        key: str = "",
        expect: bytes = b"",
    ) -> "Target":
        """A POST of ``document`` as JSON, with ``key`` as bearer token."""
        body = json.dumps(document).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return cls(port=port, request=head.encode() + body, expect=expect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as its reader saw it; times are seconds of ``perf_counter``.

    ``first_at`` is when the first text of a stream was there.
    """

    status: int
    asked_at: float
    ended_at: float
    first_at: float | None
    body: bytes

    @property
    def seconds(self) -> float:
        """How long it took in all."""
        return self.ended_at - self.asked_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a load came to: its answers, and how long they took together."""

    answers: Sequence[Answer]
    seconds: float
    expect: bytes

    @property
    def good(self) -> list[Answer]:
        """The answers of status 200 with what was expected in them."""
        return [
            one for one in self.answers if one.status == 200 and self.expect in one.body
        ]

    @property
    def failed(self) -> int:
        """How many answers were not good."""
        return len(self.answers) - len(self.good)

    @property
    def statuses(self) -> dict[int, int]:
        """How many answers had each status; 0 is a connection that broke."""
        found: dict[int, int] = {}
        for one in self.answers:
            found[one.status] = found.get(one.status, 0) + 1
        return found

    @property
    def per_s(self) -> float:
        """Good answers in a second."""
        return len(self.good) / self.seconds

    def ms(self) -> tuple[float, float]:
        """p50 and p99 of the good answers, in milliseconds."""
        return _spread([one.seconds for one in self.good])

    def first_ms(self, count: int | None = None) -> tuple[float, float]:
        """p50 and p99 to the first text of the ``count`` asked first (all unless said).

        A stream without a text counts as long as it lasted.
        """
        asked = sorted(self.answers, key=lambda one: one.asked_at)[:count]
        return _spread([(one.first_at or one.ended_at) - one.asked_at for one in asked])

    def tokens(self) -> int:
        """Words of all good streams together: a token of an echo is a word."""
        return sum(len(text(one.body).split()) for one in self.good)

    def most_open(self) -> int:
        """How many streams had begun and not ended at once, at most."""
        begun = [(one.first_at, 1) for one in self.good if one.first_at is not None]
        ended = [(one.ended_at, -1) for one in self.good if one.first_at is not None]
        changes = (change for _, change in sorted(begun + ended))
        return max(itertools.accumulate(changes), default=0)

    def check(self, name: str, share: float = 0.0) -> None:
        """Raise RuntimeError when more than this share of the answers failed."""
        if self.failed <= share * len(self.answers):
            return
        bad = next(one for one in self.answers if one not in self.good)
        said = bad.body[-300:].decode(errors="replace")
        raise RuntimeError(
            f"{name}: {self.failed} of {len(self.answers)} answers were wrong, by "
            f"status {self.statuses}; one of them: {said!r}"
        )


def _spread(seconds: Sequence[float]) -> tuple[float, float]:
    if not seconds:
        raise RuntimeError("no good answer came, so there is no latency to tell")
    return p50(seconds) * 1000, p99(seconds) * 1000


class Connection(asyncio.Protocol):
    """One kept connection; it carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._waiting: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._head: Head | None = None
        self._asked_at = 0.0
        self._first_at: float | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.is_open = transport, True

    def send(self, request: bytes) -> "asyncio.Future[Answer]":
        """Ask; the answer comes as the future's result."""
        self._buffer.clear()
        self._head = self._first_at = None
        self._waiting = asyncio.get_running_loop().create_future()
        self._asked_at = time.perf_counter()
        self._transport.write(request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._buffer += data
        if self._head is None:
            self._head = Head.read(self._buffer)
        if self._first_at is None and has_text(self._buffer):
            self._first_at = time.perf_counter()
        if self._head is not None and self._head.is_whole(self._buffer):
            self._end(self._head.status)

    def connection_lost(self, _error: Exception | None) -> None:
        """Called by asyncio; an answer without a length ends so."""
        self.is_open = False
        ends_so = self._head is not None and self._head.ends_with_connection
        self._end(self._head.status if self._head and ends_so else 0)

    def close(self) -> None:
        """Close it."""
        if self.is_open:
            self._transport.close()

    def _end(self, status: int) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.done():
            return
        if self._head is not None and self._head.closes:
            self.is_open = False
            self._transport.close()
        start = self._head.end if self._head else 0
        body = bytes(self._buffer[start:])
        is_chunked = self._head is not None and self._head.is_chunked
        waiting.set_result(
            Answer(
                status=status,
                asked_at=self._asked_at,
                ended_at=time.perf_counter(),
                first_at=self._first_at,
                body=dechunked(body) if is_chunked and status != 200 else body,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the head of an answer says; ``end`` is where its body begins."""

    status: int
    end: int
    length: int | None
    is_chunked: bool
    closes: bool

    @classmethod
    def read(cls, data: bytes | bytearray) -> "Head | None":
        """The head of ``data``; None while it is not all there.

        >>> Head.read(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok").length
        2
        """
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = bytes(data[:end]).lower().split(b"\r\n")
        fields = {
            name: value.strip()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        length = fields.get(b"content-length")
        return cls(
            status=int(first.split()[1]),
            end=end + 4,
            length=None if length is None else int(length),
            is_chunked=fields.get(b"transfer-encoding") == b"chunked",
            closes=fields.get(b"connection") == b"close",
        )

    @property
    def ends_with_connection(self) -> bool:
        """True when only the end of the connection ends the body."""
        return self.length is None and not self.is_chunked

    def is_whole(self, data: bytes | bytearray) -> bool:
        """True when the whole body is there."""
        if self.is_chunked:
            # No body here has a bare CR, so nothing else looks like the last chunk.
            # The head may end like it: a header whose value ends with 0.
            return data.endswith(LAST_CHUNK, self.end)
        return self.length is not None and len(data) >= self.end + self.length


Connect = Callable[[int], Awaitable[Connection]]
"""Opens a connection to a port."""


async def over_tcp(port: int) -> Connection:
    """A connection to a port of this machine."""
    loop = asyncio.get_running_loop()
    _, made = await loop.create_connection(Connection, HOST, port)
    return made


class Loader:
    """Asks one target, over connections that are kept between loads."""

    def __init__(self, target: Target, connect: Connect | None = None) -> None:
        self.target = target
        self._connect = connect or over_tcp
        self._idle: list[Connection] = []

    async def steady(self, *, clients: int, seconds: float) -> Load:
        """So many clients, each of whom asks anew when its answer is there."""
        started = time.perf_counter()
        until = started + seconds
        answers: list[Answer] = []

        async def client() -> None:
            while time.perf_counter() < until:
                answers.append(await self.ask())

        await _all(client() for _ in range(clients))
        return self._load(answers, started)

    async def arriving(self, *, per_s: float, seconds: float, seed: int) -> Load:
        """Requests at random moments, whatever became of those before (Poisson)."""
        chance = random.Random(seed)
        moments: list[float] = []
        at = chance.expovariate(per_s)
        while at < seconds:
            moments.append(at)
            at += chance.expovariate(per_s)
        return await self.at(moments)

    async def at(self, moments: Iterable[float]) -> Load:
        """A request at each of these moments, in seconds from now."""
        started = time.perf_counter()

        async def one(moment: float) -> Answer:
            await asyncio.sleep(started + moment - time.perf_counter())
            return await self.ask()

        return self._load(await _all(one(moment) for moment in moments), started)

    async def burst(self, count: int, *, each: int = 1) -> Load:
        """``count`` clients at once, each of whom asks ``each`` times in a row."""
        self.close()
        connections = [await self._connect(self.target.port) for _ in range(count)]
        started = time.perf_counter()

        async def client(connection: Connection) -> list[Answer]:
            first = [await self._on(connection)]
            return first + [await self.ask() for _ in range(each - 1)]

        rows = await _all(client(connection) for connection in connections)
        return self._load([answer for row in rows for answer in row], started)

    async def ask(self) -> Answer:
        """One request over a kept connection, or a new one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_open:
                continue
            answer = await self._on(connection)
            if answer.status == 0 and not answer.body:
                break  # the server closed it as we asked: that is no answer to us
            return answer
        try:
            return await self._on(await self._connect(self.target.port))
        except OSError as error:
            now = time.perf_counter()
            return Answer(
                status=0,
                asked_at=now,
                ended_at=now,
                first_at=None,
                body=str(error).encode(),
            )

    def close(self) -> None:
        """Close every kept connection."""
        while self._idle:
            self._idle.pop().close()

    async def _on(self, connection: Connection) -> Answer:
        answer = await connection.send(self.target.request)
        if connection.is_open:
            self._idle.append(connection)
        return answer

    def _load(self, answers: Sequence[Answer], started: float) -> Load:
        ended = max((one.ended_at for one in answers), default=started)
        return Load(answers=answers, seconds=ended - started, expect=self.target.expect)


async def _all(works: Iterable[Awaitable[Any]]) -> list[Any]:
    """The results of all, within the patience that a load has."""
    gathered = asyncio.gather(*works)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return list(await gathered)
    except TimeoutError:
        gathered.cancel()
        with suppress(asyncio.CancelledError):
            await gathered
        raise RuntimeError(f"no answer within {PATIENCE_S:.0f} s") from None


def has_text(body: bytes | bytearray) -> bool:
    """True when a stream has brought a text that is not empty.

    >>> has_text(b'data: {"delta":{"content":""}}'), has_text(b'{"content":"a"}')
    (False, True)
    """
    return body.count(TEXT) > body.count(NO_TEXT)


def dechunked(body: bytes) -> bytes:
    """What a chunked body says.

    >>> dechunked(b"3\\r\\none\\r\\n4\\r\\n two\\r\\n0\\r\\n\\r\\n")
    b'one two'
    """
    parts: list[bytes] = []
    at = 0
    while at < len(body):
        size, _, _ = body[at : at + 20].partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        at += len(size) + 2
        parts.append(body[at : at + length])
        at += length + 2
    return b"".join(parts)


def text(body: bytes) -> str:
    """The text of a stream's chunked body, of all its pieces together."""
    lines = dechunked(body).split(b"\n")
    events = (line[6:] for line in lines if line.startswith(b"data: {"))
    return "".join(map(_piece, events))


def _piece(event: bytes) -> str:
    choices = json.loads(event).get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


@dataclass(slots=True)
class Loaders:
    """A loader for each target, made when it is first asked for."""

    made: dict[Target, Loader] = field(default_factory=dict)

    def of(self, target: Target) -> Loader:
        """The loader of ``target``."""
        return self.made.setdefault(target, Loader(target))

    def close(self) -> None:
        """Close all their connections."""
        for loader in self.made.values():
            loader.close()
