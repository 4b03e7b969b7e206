"""The part of the client about the fleet itself: workers, queues, letters, keys."""

from collections.abc import Sequence

from genie.api_types import (
    DeadLetterAnswer,
    HealthAnswer,
    JobAnswer,
    JoinTokenAnswer,
    KeyAnswer,
    QueueAnswer,
    WorkerAnswer,
)
from genie.sdk.aio.jobs import AsyncCloud
from genie.sdk.overview import FleetAnswer
from genie.sdk.steps import administration as steps


class AsyncAdministration:
    """One cloud from its owner's side; `genie.AsyncClient` is one.

    All but `health` need an admin key.
    """

    _cloud: AsyncCloud

    async def workers(self) -> tuple[WorkerAnswer, ...]:
        """The workers that serve your org; see `Client.workers`."""
        return await self._cloud.run(steps.workers())

    async def queues(self) -> tuple[QueueAnswer, ...]:
        """How deep each queue is; see `Client.queues`."""
        return await self._cloud.run(steps.queues())

    async def fleet(self, *, jobs: int = 20) -> FleetAnswer:
        """The whole fleet now; see `Client.fleet`."""
        return await self._cloud.run(steps.fleet(jobs))

    async def dead_letters(self) -> tuple[DeadLetterAnswer, ...]:
        """Messages of your org that no worker could serve.

        See `Client.dead_letters`.
        """
        return await self._cloud.run(steps.dead_letters())

    async def dead_letter(
        self, letter_id: str, *, text: bool = False
    ) -> DeadLetterAnswer:
        """One dead letter; see `Client.dead_letter`."""
        return await self._cloud.run(steps.dead_letter(letter_id, text))

    async def replay_dead_letter(self, letter_id: str) -> JobAnswer:
        """Put a dead letter's job back into its queue.

        See `Client.replay_dead_letter`.
        """
        return await self._cloud.run(steps.replay_dead_letter(letter_id))

    async def discard_dead_letter(self, letter_id: str) -> None:
        """Remove a dead letter for good; see `Client.discard_dead_letter`."""
        await self._cloud.run(steps.discard_dead_letter(letter_id))

    async def join_token(self, queues: Sequence[str] = ()) -> JoinTokenAnswer:
        """A token for one machine to join with, within the hour.

        See `Client.join_token`.
        """
        return await self._cloud.run(steps.join_token(queues))

    async def keys(self) -> tuple[KeyAnswer, ...]:
        """The API keys of your org, without their secrets; see `Client.keys`."""
        return await self._cloud.run(steps.keys())

    async def create_key(
        self, name: str, *, admin: bool = False, models: Sequence[str] = ()
    ) -> KeyAnswer:
        """A new API key; see `Client.create_key`."""
        return await self._cloud.run(steps.create_key(name, admin, models))

    async def revoke_key(self, key: str) -> None:
        """Make a key, by its id or prefix, useless at once; see `Client.revoke_key`."""
        await self._cloud.run(steps.revoke_key(key))

    async def health(self) -> HealthAnswer:
        """Whether the cloud and what it stands on are well; see `Client.health`."""
        return await self._cloud.run(steps.health())
