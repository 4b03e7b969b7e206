"""One verb, two methods: one that waits and one that is awaited."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self, cast

from fixtures.twin_cloud import TwinCloud
from genie.sdk.aio import AsyncClient
from genie.sdk.client import Client
from genie.sdk.methods import (
    AsyncCloud,
    C,
    Cloud,
    OnCloud,
    items_verb,
    self_verb,
    verb,
)
from genie.sdk.requests import Item, Items, Steps, get


class Shop(OnCloud[C]):
    """Verbs of a thing that does not exist."""

    @verb
    def size(self, place: str = "here") -> Steps[int]:
        """How large it is."""
        return len((yield get(f"/v1/{place}")))

    @self_verb
    def paint(self) -> Steps[Self]:
        """Paint it."""
        yield get("/v1/paint")
        return self

    @items_verb
    def colours(self) -> Items[str]:
        """Its colours."""
        yield Item("red")
        yield Item((yield get("/v1/here")).decode())


class NearShop(Shop[Cloud]):
    """Waits."""


class AsyncShop(Shop[AsyncCloud]):
    """Is awaited."""

    _awaits = True


def cloud() -> TwinCloud:
    """A cloud where everything is five bytes long."""
    return TwinCloud({"GET /v1/here": 12345, "GET /v1/paint": 1})


def test_a_verb_waits_on_a_cloud_that_waits() -> None:
    shop = NearShop(cloud().client()._transport)
    assert shop.size() == 5
    assert shop.paint() is shop
    assert list(shop.colours()) == ["red", "12345"]


def test_a_verb_is_awaited_on_a_cloud_that_is_awaited() -> None:
    async def main() -> tuple[int, bool, list[str]]:
        shop = AsyncShop(cloud().async_client()._transport)
        colours = [colour async for colour in shop.colours()]
        return await shop.size(place="here"), await shop.paint() is shop, colours

    assert asyncio.run(main()) == (5, True, ["red", "12345"])
    assert inspect.iscoroutinefunction(AsyncShop.size)
    assert not inspect.iscoroutinefunction(NearShop.size)


def test_help_shows_the_text_the_parameters_and_the_result() -> None:
    assert inspect.getdoc(AsyncShop.size) == "How large it is."
    shown = inspect.signature(NearShop.size)
    assert list(shown.parameters) == ["self", "place"]
    assert shown.return_annotation is int
    assert inspect.signature(NearShop.colours).return_annotation == Iterator[str]
    assert inspect.signature(AsyncShop.colours).return_annotation == AsyncIterator[str]


def test_help_names_the_class_of_a_result_as_its_client_makes_it() -> None:
    def returned(method: object) -> str:
        return str(inspect.signature(cast(Any, method)).return_annotation)

    assert returned(Client.job) == "Job"
    assert returned(AsyncClient.job) == "AsyncJob"
    assert "AsyncSchedule" in returned(AsyncClient.schedules)
    assert "~" not in returned(Client.retry_jobs)
