"""The echo engine has no weights: it answers with the words it was asked.

Deterministic and paced, with the same slots, queueing, limits and faults as a real
engine: for tests, demos, and benchmarks of everything around an engine.
"""

import base64
import math
import os
import struct
import time
import zlib
from collections.abc import Callable
from typing import NoReturn

import msgspec

from genie import engines
from genie.contracts.inference import (
    AnswerExtras,
    FinishReason,
    Logprob,
    SampledToken,
    Usage,
)
from genie.errors import CatalogError
from genie.fingerprint import fingerprint
from genie.sources import EchoOptions
from workers.engine.child.backend import (
    Backend,
    EngineClock,
    EngineLimits,
    PreparedPrompt,
)
from workers.engine.child.scheduler import ForwardPass
from workers.engine.child.scheduler import Sequence as Running
from workers.engine.errors import load_failed, refused
from workers.engine.protocol import EngineRequest, Finish, Load, OnLoadProgress
from workers.engine.registry import RegisteredEngine, VerifiedFiles

VERSION = "1"

VECTOR_WIDTH = 16
"""Dimensions of an echo embedding."""


class EchoBackend(Backend):
    """Answers the last user message's words, again and again, a token a word."""

    def __init__(
        self,
        room: EngineLimits,
        options: EchoOptions,
        *,
        clock: EngineClock = time.monotonic,
        crash: Callable[[], NoReturn] = lambda: os._exit(70),
    ) -> None:
        super().__init__(room, clock)
        self._crash_on, self._once = options.crash_on, options.once
        self._crash = crash
        self.pace_s = options.ms_per_token / 1000
        self._next_tick = 0.0
        self._words: dict[str, tuple[list[str], int]] = {}
        """What each request repeats, and how many words of its answer were given."""

    def prepare(self, request: EngineRequest) -> PreparedPrompt:
        """Read the words; a poisonous prompt kills the engine here."""
        texts = [message.content for message in request.messages]
        if request.prompt is not None:
            texts = [request.prompt]
        if self._crash_on and any(self._crash_on in text for text in texts):
            self._crash()
        if not texts:
            raise refused("invalid_request", "messages is empty; say something")
        words = self._asked(request).split() or ["nothing"]
        asked = request.sampling.max_tokens
        limit = len(words) + 2 if asked is None else asked
        given = len(request.resume.split())
        self._words[request.id] = words, given
        tokens = max(1, sum(len(text.split()) for text in texts))
        return PreparedPrompt(tokens + given, max(0, limit - given), resumed=given)

    def submit(self, request: EngineRequest) -> None:
        """Embed at once, or take a chat in."""
        if request.inputs:
            self._events.append(word_vectors(request))
            return
        super().submit(request)

    def advance(self, step: ForwardPass) -> None:
        """One word for every running request."""
        self.scheduler.done(step)
        for sequence in step.answering:
            self._say(sequence)

    def forget(self, request_id: str) -> None:
        """Drop the words of a request that has ended."""
        self._words.pop(request_id, None)

    def is_due(self) -> bool:
        """True once a token's time has passed since the last one."""
        now = self.clock()
        if now < self._next_tick:
            return False
        # After a pause the rhythm starts anew instead of catching up.
        late = now - self._next_tick > self.pace_s
        self._next_tick = (now if late else self._next_tick) + self.pace_s
        return True

    def wait_s(self) -> float | None:
        """Seconds to the next tick, or until the next deadline if that is sooner."""
        if self._events:
            return 0.0
        if not self._answers:
            return None
        return max(0.0, self._next_tick - self.clock())

    def _say(self, sequence: Running) -> None:
        words, given = self._words[sequence.id]
        number = given + sequence.produced
        word = words[number % len(words)]
        text = word if number == 0 else f" {word}"
        asked = self._answers[sequence.id].request.sampling.max_tokens
        is_last = self._once and number + 1 >= len(words)
        is_last = is_last or (asked is None and number + 1 >= len(words) + 2)
        self.produce(
            sequence, text, choice=self._choice(sequence, text), is_end=is_last
        )

    def _choice(self, sequence: Running, text: str) -> SampledToken | None:
        """An echo never doubts: its word has probability one, and no rival."""
        rivals = self._answers[sequence.id].request.sampling.logprobs
        if rivals is None:
            return None
        itself = (Logprob(token=text, logprob=0.0),) if rivals else ()
        return SampledToken(token=text, logprob=0.0, rivals=itself)

    @staticmethod
    def _asked(request: EngineRequest) -> str:
        if request.prompt is not None:
            return request.prompt
        users = [one.content for one in request.messages if one.role == "user"]
        return users[-1] if users else request.messages[-1].content


def word_vectors(request: EngineRequest) -> Finish:
    """Texts as the words they are made of: like texts have like vectors."""
    texts = [text.lower().split() for text in request.inputs]
    return Finish(
        id=request.id,
        reason=FinishReason.STOP,
        usage=Usage(prompt_tokens=sum(len(words) + 2 for words in texts)),
        extras=AnswerExtras(vectors=tuple(_vector(words) for words in texts)),
    )


def _vector(words: list[str]) -> str:
    counts = [0.0] * VECTOR_WIDTH
    for word in words or ["nothing"]:
        counts[zlib.crc32(word.encode()) % VECTOR_WIDTH] += 1.0
    length = math.hypot(*counts)
    raw = struct.pack(f"<{VECTOR_WIDTH}f", *(one / length for one in counts))
    return base64.b64encode(raw).decode("ascii")


def load(
    load: Load, limits: EngineLimits, files: VerifiedFiles, progress: OnLoadProgress
) -> tuple[Backend, str]:
    """What the source says, as a backend; raises LoadFailed."""
    try:
        options = EchoOptions.read(load.spec.source)
    except CatalogError as error:
        raise load_failed("bad_source", error.message) from error
    # A load is a wait here: nothing else runs in this process yet.
    time.sleep(options.load_s)
    if options.fail is not None:
        reason = options.fail or "told to fail"
        raise load_failed("load_failed", f"the echo engine failed: {reason}")
    identity = fingerprint(
        load.spec.files, load.quant, chat_template="", engine=f"echo/{VERSION}"
    )
    return EchoBackend(limits, options), identity


ENGINE = RegisteredEngine(
    facts=msgspec.structs.replace(engines.SHIPPED["echo"], version=VERSION), load=load
)
