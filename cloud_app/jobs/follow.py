"""A job that nobody waits for, read while it is written by somebody who asks later."""

import time
from collections.abc import Generator, Iterator

from cloud_app import store
from cloud_app.bus import JobInbox
from cloud_app.context import Context
from cloud_app.jobs import lifecycle
from cloud_app.jobs.stream import AnswerText, QueueWait, outcome_of
from cloud_app.store.records import JobRecord
from genie import logs
from genie.contracts.inference import Chunk, JobState, Outcome
from genie.errors import JobFailed, Unavailable

log = logs.logger("follow")

LOOK_S = 0.4
"""How often a listener asks for what is new."""


class JobListener:
    """One job as waiting, text and its outcome. Leaving it changes nothing.

    Its worker is asked again and again for all that is written: a worker keeps no list
    of listeners, and one that takes over is asked like the first.
    """

    def __init__(self, ctx: Context, job: JobRecord) -> None:
        self._ctx, self._job = ctx, job
        self._name = f"{job.id}.{store.ids.new_id()}"  # ours: others may listen too
        self._given: dict[int, str] = {}

    @property
    def answers(self) -> int:
        """How many answers the job has, or is to have."""
        if self._job.task is not None:
            return max(1, self._job.task.n)
        return len(self._job.outcome.answers)

    def items(self) -> Generator[QueueWait | AnswerText | Outcome, None, None]:
        """Everything the listener is told; the last item is the outcome."""
        inbox = self._ctx.replies.expect(self._name)
        try:
            while not self._job.state.is_terminal:
                yield self._waiting()
                self._ask()
                yield from self._heard(inbox)
                self._read()
            yield from self._end()
        finally:
            self._ctx.replies.forget(self._name)

    def _waiting(self) -> QueueWait:
        if self._job.state is JobState.RUNNING:
            return QueueWait(is_started=True)
        try:
            ahead = lifecycle.place(self._ctx, self._job).ahead
        except Unavailable:
            ahead = None
        return QueueWait(position=None if ahead is None else ahead + 1)

    def _ask(self) -> None:
        job, replies = self._job, self._ctx.replies
        if job.worker_id is None:
            return
        try:
            self._ctx.bus.say(job.worker_id, job.id, replies.name, self._name)
        except Unavailable as error:
            log.warning("listener_waits", job_id=job.id, error=str(error))

    def _heard(self, inbox: JobInbox) -> Iterator[AnswerText]:
        until = time.monotonic() + LOOK_S
        while (left_s := until - time.monotonic()) > 0:
            event = inbox.get(left_s)
            if isinstance(event, Chunk):
                yield from self._told(event.text, event.index)

    def _read(self) -> None:
        try:
            self._job = lifecycle.get(self._ctx, self._job.org, self._job.id)
        except Unavailable as error:
            log.warning("listener_waits", job_id=self._job.id, error=str(error))

    def _told(self, text: str, index: int) -> Iterator[AnswerText]:
        """What is new of an answer; one that starts over is waited for."""
        given = self._given.get(index, "")
        if not text.startswith(given) and not given.startswith(text):
            raise JobFailed(
                "another worker took over and writes another answer; the job goes on: "
                "read its result when it has ended",
                code="stream_broken",
            )
        if len(text) > len(given):
            self._given[index] = text
            worker, new = self._job.worker, text[len(given) :]
            yield AnswerText(text=new, tokens=0, worker=worker, index=index)

    def _end(self) -> Iterator[AnswerText | Outcome]:
        job = self._job
        outcome = outcome_of(job)
        if job.state is JobState.COMPLETED:
            if job.outcome.text is None:
                raise JobFailed(
                    f"the answer of job {job.id} is no longer kept; submit it again",
                    code="result_expired",
                )
            for index, one in enumerate(outcome.answers):
                yield from self._told(one.text, index)
            lifecycle.mark_delivered(self._ctx, job)
        yield outcome
