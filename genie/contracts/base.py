"""The shape shared by every contract: frozen, keyword-only, read leniently."""

from typing import Annotated, TypeVar

import msgspec

PROTOCOL = 1
"""Version of the worker/cloud protocol; both sides refuse a different one."""

Count = Annotated[int, msgspec.Meta(ge=0)]
"""A whole number that cannot be negative: tokens, bytes, sequence numbers."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]
"""A duration in seconds."""


class Contract(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every value that travels; copy one with ``msgspec.structs.replace``.

    Two releases share the wire: a reader ignores fields it does not know and takes
    defaults for those that are missing, and a writer leaves defaults out. So a new
    field has a default, best None, False, 0 or something empty: of floats and large
    numbers msgspec leaves out only the very object that is the default.
    """


C = TypeVar("C", bound=Contract)


def part(kind: type[C], whole: C) -> C:
    """The fields of ``kind`` out of a contract that extends it."""
    return kind(**{name: getattr(whole, name) for name in kind.__struct_fields__})
