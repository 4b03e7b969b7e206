"""The only door to the broker: publish, replies, outcomes, depths."""

from cloud_app.bus.outcomes import OutcomeConsumer
from cloud_app.bus.publish import Bus, Depth
from cloud_app.bus.replies import Inbox, Replies

__all__ = ["Bus", "Depth", "Inbox", "OutcomeConsumer", "Replies"]
