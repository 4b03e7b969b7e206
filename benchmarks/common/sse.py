"""Many streams read by one thread, so that the reader costs next to nothing."""

import json
import selectors
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DONE = b"data: [DONE]"
TEXT, NO_TEXT = b'"content":"', b'"content":""'


@dataclass(slots=True)
class Reading:
    """One stream under way; times are monotonic seconds."""

    sock: socket.socket
    asked_at: float = 0.0
    first_at: float | None = None
    body: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run of streams came to."""

    tokens: int
    seconds: float
    first_token_s: tuple[float, ...]


class Reader:
    """Keeps ``width`` streams open, one after the other on each connection."""

    def __init__(self, url: str, api_key: str, *, tokens: int) -> None:
        self._url, self._tokens = urlsplit(url), tokens
        question = {
            "model": "chat",
            "messages": [{"role": "user", "content": "one two three"}],
            "max_tokens": tokens,
            "stream": True,
        }
        body = json.dumps(question).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self._url.netloc}\r\n"
            f"Authorization: Bearer {api_key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body

    def run(self, *, width: int, each: int) -> Run:
        """``width`` streams at once, ``each`` times one after the other."""
        readings = [Reading(self._connect()) for _ in range(width)]
        left = width * (each - 1)
        waits: list[float] = []
        started = time.monotonic()
        with selectors.DefaultSelector() as ready:
            for one in readings:
                ready.register(one.sock, selectors.EVENT_READ, one)
                self._ask(one)
            open_ = width
            while open_:
                for key, _mask in ready.select(60):
                    if not self._read(key.data):
                        continue
                    waits.append(_waited(key.data))
                    if left:
                        left -= 1
                        self._ask(key.data)
                        continue
                    open_ -= 1
                    ready.unregister(key.data.sock)
        seconds = time.monotonic() - started
        for one in readings:
            one.sock.close()
        return Run(
            tokens=width * each * self._tokens,
            seconds=seconds,
            first_token_s=tuple(waits),
        )

    def _connect(self) -> socket.socket:
        address = (self._url.hostname or "", self._url.port or 80)
        return socket.create_connection(address, timeout=60)

    def _ask(self, one: Reading) -> None:
        one.body.clear()
        one.first_at, one.asked_at = None, time.monotonic()
        one.sock.sendall(self._request)

    def _read(self, one: Reading) -> bool:
        """Read what is there; true at the end of the answer."""
        data = one.sock.recv(65_536)
        one.body += data
        if not data or one.body.startswith(b"HTTP/1.1 5"):
            raise ConnectionError(bytes(one.body[:400]).decode(errors="replace"))
        if one.first_at is None and _has_text(one.body):
            one.first_at = time.monotonic()
        return one.body.endswith(b"0\r\n\r\n") and DONE in one.body


def _has_text(body: bytearray) -> bool:
    return body.count(TEXT) > body.count(NO_TEXT)


def _waited(one: Reading) -> float:
    if one.first_at is None:
        raise ConnectionError(bytes(one.body[:400]).decode(errors="replace"))
    return one.first_at - one.asked_at
