"""What a process remembers between two looks."""

from datetime import timedelta

from cloud_app.context import KEY_FOR, KeyCache
from cloud_app.orgs import auth
from fixtures.clouds import NOON, Cloud


def test_a_key_that_was_revoked_while_it_was_read_is_not_kept(cloud: Cloud) -> None:
    key, _ = auth.create_key(cloud.ctx, "acme", "laptop")
    cache = KeyCache()
    generation = cache.generation
    cache.clear()  # revoked, between the read and what the reader does next
    cache.put(key.prefix, (key, "digest"), NOON, generation)
    assert cache.get(key.prefix, NOON) is None


def test_a_live_key_is_kept_for_half_a_second(cloud: Cloud) -> None:
    key, _ = auth.create_key(cloud.ctx, "acme", "laptop")
    cache = KeyCache()
    cache.put(key.prefix, (key, "digest"), NOON, cache.generation)
    almost = NOON + KEY_FOR - timedelta(milliseconds=1)
    assert cache.get(key.prefix, almost) == (key, "digest")
    assert cache.get(key.prefix, NOON + KEY_FOR) is None
