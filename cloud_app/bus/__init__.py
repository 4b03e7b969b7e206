"""The only door to the broker: publish, replies, outcomes, depths, dead letters."""

from cloud_app.bus.dead_letters import DeadLetter, DeadLetters
from cloud_app.bus.inbox import Inbox, News, Unpublished
from cloud_app.bus.outcomes import OutcomeConsumer
from cloud_app.bus.publish import Bus, Depth
from cloud_app.bus.replies import Replies

__all__ = [
    "Bus",
    "DeadLetter",
    "DeadLetters",
    "Depth",
    "Inbox",
    "News",
    "OutcomeConsumer",
    "Replies",
    "Unpublished",
]
