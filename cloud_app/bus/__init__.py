"""The only door to the broker: publish, replies, outcomes, depths, dead letters."""

from cloud_app.bus.dead_letters import DeadLetter, DeadLetters
from cloud_app.bus.outcomes import OutcomeConsumer
from cloud_app.bus.publish import Bus, QueueDepth
from cloud_app.bus.replies import InboxItem, JobInbox, PublishUnconfirmed, ReplyRouter

__all__ = [
    "Bus",
    "DeadLetter",
    "DeadLetters",
    "QueueDepth",
    "JobInbox",
    "InboxItem",
    "OutcomeConsumer",
    "ReplyRouter",
    "PublishUnconfirmed",
]
