"""Rules for webhooks: when to retry, and which addresses are allowed."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

GAPS = (timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=5))
"""The gaps before the three retries of a failed delivery."""

_NAT64 = IPv6Network("64:ff9b::/96")
_LOW_32 = 0xFFFFFFFF

IpAddress = IPv4Address | IPv6Address


def next_gap(attempts: int) -> timedelta | None:
    """How long to wait after this many failed attempts; None: give up.

    >>> [gap and gap.seconds for gap in map(next_gap, (1, 2, 3, 4))]
    [5, 30, 300, None]
    """
    return GAPS[attempts - 1] if attempts <= len(GAPS) else None


def non_public_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """The addresses that are not public; a webhook must not go to them.

    >>> non_public_addresses(
    ...     ["127.0.0.1", "10.1.2.3", "169.254.169.254", "1.1.1.1", "::1"]
    ... )
    ('127.0.0.1', '10.1.2.3', '169.254.169.254', '::1')
    """
    return tuple(text for text in addresses if not _is_public(_plain(text)))


def _is_public(address: IpAddress) -> bool:
    return address.is_global and not address.is_multicast


def _plain(text: str) -> IpAddress:
    """The address a packet really reaches: IPv4 wrapped in IPv6 is unwrapped."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv4Address):
        return address
    wrapped = address.ipv4_mapped or address.sixtofour
    if wrapped is not None:
        return wrapped
    if address in _NAT64:
        return IPv4Address(int(address) & _LOW_32)
    return address


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookUrl:
    """A webhook's URL taken apart; ``path`` with its query."""

    is_tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The host as the ``Host`` header writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_usual = self.port == (443 if self.is_tls else 80)
        return host if is_usual else f"{host}:{self.port}"


def parse_webhook_url(url: str) -> WebhookUrl:
    """Parse a webhook's URL; raises ValueError that says what is wrong.

    >>> parse_webhook_url("https://example.com/hook?a=1").authority
    'example.com'
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be ASCII without spaces; percent-encode the rest")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("must start with https:// or http://")
    if not parts.hostname:
        raise ValueError("names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain a user or password; the secret signs")
    is_tls = parts.scheme == "https"
    path = parts.path or "/"
    return WebhookUrl(
        is_tls=is_tls,
        host=parts.hostname,
        port=parts.port or (443 if is_tls else 80),
        path=f"{path}?{parts.query}" if parts.query else path,
    )
