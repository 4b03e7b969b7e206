"""Reports what serving does: events to the cloud and to the asker, in order."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Protocol

from msgspec.structs import replace

from genie import topology
from genie.contracts import codec
from genie.contracts.inference import (
    AnswerExtras,
    AttemptGivenBack,
    AttemptStarted,
    Chunk,
    Fault,
    FinishReason,
    InferenceTask,
    JobState,
    Outcome,
)
from genie.errors import TooLarge
from genie.messaging import envelope, queues
from genie.messaging.publisher import Letter
from workers.serving.attempt import Attempt

_OUTCOMES, _REPLIES = queues.outcomes_queue(), queues.replies()

TOGETHER_BYTES = 32_768
"""Of events in one message; more would make the first of them wait for the last."""


class MessageSender(Protocol):
    """Takes letters from any thread without blocking; `Publisher` is one."""

    def send(self, letter: Letter) -> None:
        """Hand over one letter."""

    def gathered(self) -> AbstractContextManager[None]:
        """Let what this thread sends within leave in one write."""


class EventReporter:
    """Confirmed events to the cloud, plain ones to the asker.

    A chunk never waits behind the broker's confirmation of another job's outcome. The
    events of one engine step to one asker leave in one message. While they are
    gathered, those of other threads to the same asker wait with them, so that no asker
    hears things in another order than they were said.
    """

    def __init__(self, post: MessageSender) -> None:
        self._post = post
        self._lock = threading.Lock()
        self._gathering = self._size = 0
        self._kept: dict[str, list[bytes]] = {}

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Let what an engine's step says leave together: one message for each asker,
        one write for all."""
        with self._post.gathered():
            with self._lock:
                self._gathering += 1
            try:
                yield
            finally:
                with self._lock:
                    self._gathering -= 1
                    self._send_kept()

    def started(self, task: InferenceTask, event: AttemptStarted) -> None:
        """The job runs here now."""
        body = codec.encode(event)
        self._record(body)
        self._reply(task, body)

    def given_back(
        self, event: AttemptGivenBack, on_confirmed: Callable[[], None] | None = None
    ) -> None:
        """The job was taken and given back in good order."""
        self._record(codec.encode(event), on_confirmed)

    def again(self, task: InferenceTask, on_confirmed: Callable[[], None]) -> None:
        """The job once more into its queue, behind what waits there."""
        queue = queues.model_queue(task.queue, task.model, task.work_class)
        self._post.send(
            Letter(
                key=queue.name,
                queue=queue,
                body=envelope.pack(task),
                confirmed=True,
                headers=envelope.headers(task),
                on_sent=on_confirmed,
            )
        )

    def chunk(self, task: InferenceTask, event: Chunk) -> None:
        """Some text, to the asker only."""
        self._reply(task, codec.encode(event))

    def say(self, to: str, chunks: Iterable[Chunk]) -> None:
        """What is written of a job, to somebody who did not ask for it first."""
        for chunk in chunks:
            self._send(to, codec.encode(chunk))

    def outcome(
        self, task: InferenceTask, event: Outcome, on_confirmed: Callable[[], None]
    ) -> None:
        """The end; ``on_confirmed`` runs when the broker has it for the cloud."""
        body = _fitting(event, is_streamed=task.chunks and task.reply_to is not None)
        self._reply(task, body)
        self._record(body, on_confirmed)

    def _record(
        self, body: bytes, on_confirmed: Callable[[], None] | None = None
    ) -> None:
        self._post.send(
            Letter(
                key=topology.OUTCOMES,
                exchange=topology.EVENTS,
                queue=_OUTCOMES,
                body=body,
                confirmed=True,
                on_sent=on_confirmed,
            )
        )

    def _reply(self, task: InferenceTask, body: bytes) -> None:
        if task.reply_to is not None:
            self._send(task.reply_to, body)

    def _send(self, to: str, body: bytes) -> None:
        if not topology.takes_lists(to):
            self._post.send(Letter(key=to, body=body))  # as the release before listens
            return
        with self._lock:
            if self._size + len(body) > TOGETHER_BYTES:
                self._send_kept()
            self._kept.setdefault(to, []).append(body)
            self._size += len(body)
            if not self._gathering:
                self._send_kept()

    def _send_kept(self) -> None:
        kept, self._kept, self._size = self._kept, {}, 0
        for to, bodies in kept.items():
            body = codec.joined(bodies)
            self._post.send(
                Letter(key=to, exchange=topology.REPLIES, queue=_REPLIES, body=body)
            )


def _fitting(event: Outcome, *, is_streamed: bool) -> bytes:
    tries = [event]
    if is_streamed:  # its chunks have told of every token already
        tries.append(_without_tokens(event))
    for one in tries:
        try:
            return codec.encode(one, limit_bytes=topology.MAX_MESSAGE_BYTES)
        except TooLarge:
            continue
    return codec.encode(_too_large(event))


def _without_tokens(event: Outcome) -> Outcome:
    extras = event.extras or AnswerExtras()
    others = tuple(replace(one, choices=()) for one in extras.others)
    return replace(event, extras=replace(extras, choices=(), others=others))


def _too_large(event: Outcome) -> Outcome:
    what, param = "ask for fewer tokens", "max_tokens"
    if event.extras is not None and event.extras.vectors:
        what, param = "send fewer texts", "input"
    elif event.extras is not None:
        what = "ask for fewer tokens, answers or log probabilities"
    fault = Fault(
        code=TooLarge.code,
        message=f"the answer is larger than a message may be; {what}",
        param=param,
    )
    return replace(
        event,
        state=JobState.FAILED,
        finish_reason=FinishReason.ERROR,
        text="",
        extras=None,
        fault=fault,
    )


START_S = 0.02
"""A request that has ended by then is never said to have started: its end says all
that the cloud wants to know, in half the messages."""


class PendingStarts:
    """The starts still to be said. An attempt's lock is held by whoever names it."""

    def __init__(self, mail: EventReporter, now: Callable[[], datetime]) -> None:
        self._mail, self._now = mail, now
        self._owed: dict[str, Attempt] = {}

    @property
    def are_owed(self) -> bool:
        """True while something runs that nobody was told of."""
        return bool(self._owed)

    def owe(self, attempt: Attempt) -> None:
        """It runs; said at once unless it is the job's first attempt."""
        if attempt.is_over:  # the engine refused it while it was given to it
            return
        self._owed[attempt.id] = attempt
        if not attempt.is_first:
            self.say(attempt)

    def say(self, attempt: Attempt) -> None:
        """Say it now, once, and of nothing that has ended."""
        if self._owed.pop(attempt.id, None) is not None:
            attempt.has_started = True
            self._mail.started(attempt.task, attempt.started(self._now()))

    def tend(self, clock: float) -> None:
        """Say it of all that have run for a moment; ``clock`` is monotonic."""
        for attempt in tuple(self._owed.values()):
            if attempt.taken_at + START_S <= clock:
                with attempt.lock:
                    self.say(attempt)

    def lost(self, running: Iterable[Attempt]) -> None:
        """Somebody else gets the messages of these, and nobody died: the cloud must not
        count them with those whose worker is never heard of again."""
        for attempt in running:
            with attempt.lock:
                if not attempt.is_over:
                    self.say(attempt)
                    event = attempt.given_back(self._now())
                    self._mail.given_back(replace(event, goes_on=True))

    def drop(self, attempt: Attempt) -> None:
        """It has ended, and that says it all."""
        self._owed.pop(attempt.id, None)
