"""Sends heartbeats to the cloud from a thread of its own, for as long as it runs."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from genie import logs
from genie.contracts.fleet import Heartbeat, HeartbeatReply, RegistrationReply
from genie.errors import GenieError, Unauthorized
from workers.cloud import CloudClient

log = logs.logger("agent")

JITTER = 0.1
_random = random.SystemRandom()
DEBOUNCE_S = 1.0
"""State changes wait this long after the last beat, so that a burst is one beat."""

BACKOFF_FIRST_S = 1.0
REFUSED_S = 60.0
"""A refused worker asks once a minute: only a person can mend that."""

HeartbeatBuilder = Callable[[int], Heartbeat]
"""Builds the heartbeat with a given sequence number."""


@dataclass(slots=True, kw_only=True)
class HeartbeatTimer:
    """When the next heartbeat is due (pure but for ``jitter``, seconds)."""

    interval_s: float
    jitter: Callable[[], float] = field(default=lambda: _random.uniform(-1, 1))
    misses: int = 0

    def after_answer(self, next_in_s: float) -> float:
        """The cloud answered and says when it wants the next one."""
        self.misses = 0
        self.interval_s = max(next_in_s, 0.1)
        return self.interval_s * (1 + JITTER * self.jitter())

    def after_miss(self) -> float:
        """No answer: double the wait up to the interval, spread over half of it."""
        wait = min(self.interval_s, BACKOFF_FIRST_S * 2.0 ** min(self.misses, 10))
        self.misses += 1
        return wait * (0.75 + 0.25 * self.jitter())


class Agent:
    """Sends heartbeats and hands each answer on; never dies, never blocks others.

    ``report`` builds the heartbeat, ``obey`` takes the answer, ``enrol`` registers
    anew when the cloud does not know this worker any more.
    """

    def __init__(
        self,
        cloud: CloudClient,
        registered: RegistrationReply,
        *,
        report: HeartbeatBuilder,
        obey: Callable[[HeartbeatReply], None],
        enrol: Callable[[], RegistrationReply],
        pace: HeartbeatTimer | None = None,
    ) -> None:
        self.registered = registered
        self.skew = timedelta(0)
        self._cloud, self._report, self._obey = cloud, report, obey
        self._enrol = enrol
        self._pace = pace or HeartbeatTimer(interval_s=registered.heartbeat_s)
        self._seq = 0
        self._wake = threading.Condition()
        self._due_at = 0.0
        self._beat_at = float("-inf")
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    def start(self) -> None:
        """Beat at once, then as the cloud says."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Say nothing more; waits for a beat under way."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._cloud.close()

    def nudge(self) -> None:
        """Beat now: the cloud has something to say."""
        self._hasten(time.monotonic())

    def changed(self) -> None:
        """Beat soon: the cloud should hear of a change, bursts of them as one."""
        self._hasten(max(time.monotonic(), self._beat_at + DEBOUNCE_S))

    def now(self) -> datetime:
        """The time by the cloud's clock, as of the last answer."""
        return datetime.now(UTC) + self.skew

    def _hasten(self, due_at: float) -> None:
        with self._wake:
            self._due_at = min(self._due_at, due_at)
            self._wake.notify_all()

    def _run(self) -> None:
        while self._wait():
            wait_s = self._turn()
            with self._wake:
                # A nudge during the beat has set an earlier time: it stays.
                self._due_at = min(self._due_at, time.monotonic() + wait_s)

    def _wait(self) -> bool:
        with self._wake:
            while not self._is_stopping:
                left = self._due_at - time.monotonic()
                if left <= 0:
                    self._due_at = float("inf")
                    self._beat_at = time.monotonic()
                    return True
                self._wake.wait(left)
        return False

    def _turn(self) -> float:
        # Border: a heartbeat thread that dies leaves a healthy worker lost to the
        # fleet for ever; whatever happened, the next beat must come.
        try:
            reply = self._beat()
            if reply is not None:
                return self._pace.after_answer(reply.next_in_s)
        except Unauthorized as error:
            log.error("refused", reason=error.message)
            return REFUSED_S
        except GenieError as error:
            log.warning("no_answer", reason=error.message, misses=self._pace.misses)
        except Exception as error:
            log.error("heartbeat_failed", error=type(error).__name__, exc_info=True)
        return self._pace.after_miss()

    def _beat(self) -> HeartbeatReply | None:
        """The answer; None when the cloud did not know us and we registered anew."""
        self._seq += 1
        sent_at = datetime.now(UTC)
        reply = self._ask()
        if reply is None or reply.register:
            self.registered = self._enrol()
            return None
        took = datetime.now(UTC) - sent_at
        self.skew = reply.server_time - (sent_at + took / 2)
        self._obey(reply)
        return reply

    def _ask(self) -> HeartbeatReply | None:
        beat = self._report(self._seq)
        try:
            return self._cloud.heartbeat(beat, self.registered.worker_secret)
        except Unauthorized as error:
            log.warning("secret_refused", reason=error.message)
            return None
