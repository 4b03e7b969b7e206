"""Tokens at a pace from one plain ASGI process: uvicorn sse_server:app.

It speaks as much of OpenAI's chat API as a stream needs, and answers at once what is
not to be streamed.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PACE_S = {
    name: float(ms) / 1000
    for name, _, ms in (one.partition("=") for one in os.environ["PACES"].split(","))
}
"""Seconds a token by the name of the model: PACES=chat=10,slow=100."""


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer a chat request with its words, again and again."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    asked = json.loads(await body(receive))
    words = asked["messages"][-1]["content"].split()
    said = [words[at % len(words)] for at in range(asked["max_tokens"])]
    if asked.get("stream"):
        await stream(send, said, PACE_S[asked["model"]])
        return
    answer = {"message": {"role": "assistant", "content": " ".join(said)}}
    await begin(send, b"application/json")
    await give(send, json.dumps({"choices": [answer]}).encode(), is_last=True)


async def body(receive: Receive) -> bytes:
    """The whole body of a request."""
    found = bytearray()
    while True:
        message = await receive()
        found += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(found)


async def stream(send: Send, words: list[str], pace_s: float) -> None:
    """A word each ``pace_s`` seconds, then the end."""
    await begin(send, b"text/event-stream")
    due = time.monotonic()
    for number, word in enumerate(words):
        due += pace_s
        await asyncio.sleep(due - time.monotonic())
        await give(send, piece(word if number == 0 else f" {word}"))
    await give(send, b"data: [DONE]\n\n", is_last=True)


def piece(text: str) -> bytes:
    """One event of a stream, with the fields that clients of OpenAI's API read."""
    document = {
        "id": "chatcmpl-0190a0b0c0d0e0f0",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "echo:small",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


async def begin(send: Send, kind: bytes) -> None:
    """Send the head."""
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def give(send: Send, data: bytes, *, is_last: bool = False) -> None:
    """Send a part of the body."""
    message = {"type": "http.response.body", "body": data, "more_body": not is_last}
    await send(message)
