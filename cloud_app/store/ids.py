"""Ids: 26 lower-case base32 characters, ordered by the time they were made."""

import secrets
from datetime import UTC, datetime

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base32: no i, l, o, u, so an id read aloud is not misheard."""

LENGTH = 26
_PREFIXES = ("chatcmpl-", "cmpl-")


def new_id(now: datetime | None = None) -> str:
    """A new id: 48 bits of milliseconds, 80 bits nobody can guess."""
    moment = now or datetime.now(UTC)
    milliseconds = int(moment.timestamp() * 1000)
    return encode(milliseconds << 80 | secrets.randbits(80))


def first(moment: datetime) -> str:
    """What sorts before every id made from that moment on."""
    return encode(int(moment.timestamp() * 1000) << 80)


def encode(value: int) -> str:
    """A 128-bit number as an id; larger numbers sort later.

    >>> encode(33)
    '00000000000000000000000011'
    """
    return "".join(ALPHABET[value >> 5 * at & 31] for at in range(LENGTH - 1, -1, -1))


def bare(job_id: str) -> str:
    """A job id without the prefix the inference API shows it with.

    >>> bare("chatcmpl-01h")
    '01h'
    """
    for prefix in _PREFIXES:
        job_id = job_id.removeprefix(prefix)
    return job_id


def is_id(text: str) -> bool:
    """True when ``text`` could be an id of ours."""
    return len(text) == LENGTH and set(text) <= set(ALPHABET)
