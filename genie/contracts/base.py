"""The shape shared by every contract: frozen, keyword-only, no unknown fields."""

from typing import Annotated

import msgspec

PROTOCOL = 1
"""Version of the worker/cloud protocol; both sides refuse a different one."""

Count = Annotated[int, msgspec.Meta(ge=0)]
"""A whole number that cannot be negative: tokens, bytes, sequence numbers."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]
"""A duration in seconds."""


class Contract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every value that travels; copy one with ``msgspec.structs.replace``."""
