"""Where webhooks may go, and when they are tried again."""

import pytest

from cloud_app.brain import webhook_rules

PRIVATE = (
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_ones_own_network_is_refused(address: str) -> None:
    assert webhook_rules.non_public_addresses([address]) == (address,)


def test_one_private_address_among_public_ones_is_found() -> None:
    listed = ("1.1.1.1", "2606:4700:4700::1111", "10.0.0.1")
    assert webhook_rules.non_public_addresses(listed) == ("10.0.0.1",)


def test_a_failed_delivery_is_tried_three_more_times() -> None:
    gaps = [webhook_rules.next_gap(attempts) for attempts in range(1, 6)]
    assert [gap and gap.total_seconds() for gap in gaps] == [5, 30, 300, None, None]
