"""The states of a batch, in OpenAI's words."""

from enum import StrEnum


class BatchState(StrEnum):
    """How far a batch is."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """True when nothing can change the batch any more."""
        return self in (
            BatchState.FAILED,
            BatchState.COMPLETED,
            BatchState.EXPIRED,
            BatchState.CANCELLED,
        )
