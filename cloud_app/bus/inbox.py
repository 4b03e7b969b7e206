"""What one job's asker has been told and not yet read, bounded."""

import queue
import threading
from dataclasses import dataclass

from genie.contracts.inference import Chunk, Event

MOST_CHUNKS = 4_000
MOST_BYTES = 2 * 1024 * 1024
"""Chunks one job's asker may leave unread; a slow reader must cost nobody else."""


@dataclass(frozen=True, slots=True)
class PublishUnconfirmed:
    """The broker did not say that it has the job's message; it may have it or not."""


InboxItem = Event | PublishUnconfirmed


class JobInbox:
    """The events of one job, in the order they came, while its asker keeps up."""

    def __init__(
        self, *, most_chunks: int = MOST_CHUNKS, most_bytes: int = MOST_BYTES
    ) -> None:
        self._events: queue.SimpleQueue[tuple[InboxItem, int]] = queue.SimpleQueue()
        self._most_chunks, self._most_bytes = most_chunks, most_bytes
        self._lock = threading.Lock()
        self._chunks = self._bytes = 0
        self.is_cut = False

    def put(self, event: InboxItem, size_bytes: int = 0) -> None:
        """Add an event; never blocks. Over the bound nothing more is kept."""
        if isinstance(event, Chunk) and not self._count(1, size_bytes):
            return
        self._events.put((event, size_bytes))

    def get(self, timeout_s: float) -> InboxItem | None:
        """The next event, or None when none came in time or the inbox was cut."""
        if self.is_cut:
            return None
        try:
            event, size_bytes = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(event, Chunk):
            self._count(-1, -size_bytes)
        return event

    def _count(self, chunks: int, size_bytes: int) -> bool:
        with self._lock:
            self._chunks += chunks
            self._bytes += size_bytes
            is_over = self._chunks > self._most_chunks or self._bytes > self._most_bytes
            self.is_cut = self.is_cut or is_over
            return not self.is_cut
