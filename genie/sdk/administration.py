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
from genie.sdk.jobs import Cloud
from genie.sdk.overview import FleetAnswer
from genie.sdk.steps import administration as steps


class Administration:
    """One cloud from its owner's side; `genie.Client` is one.

    All but `health` need an admin key.
    """

    _cloud: Cloud

    def workers(self) -> tuple[WorkerAnswer, ...]:
        """The workers that serve your org; needs an admin key.

        >>> [worker.state for worker in client.workers()]
        ['online']
        """
        return self._cloud.run(steps.workers())

    def queues(self) -> tuple[QueueAnswer, ...]:
        """How deep each queue is; needs an admin key.

        >>> {queue.queue for queue in client.queues()}
        {'genie'}
        """
        return self._cloud.run(steps.queues())

    def fleet(self, *, jobs: int = 20) -> FleetAnswer:
        """The whole fleet now, with so many jobs at most; needs an admin key.

        >>> fleet = client.fleet()
        >>> fleet.org, [worker.state for worker in fleet.workers]
        ('local', ['online'])
        """
        return self._cloud.run(steps.fleet(jobs))

    def dead_letters(self) -> tuple[DeadLetterAnswer, ...]:
        """Messages of your org that no worker could serve; needs an admin key.

        >>> for letter in client.dead_letters():
        ...     print(letter.id, letter.why)
        """
        return self._cloud.run(steps.dead_letters())

    def dead_letter(self, letter_id: str, *, text: bool = False) -> DeadLetterAnswer:
        """One dead letter; its ``content`` only with ``text``, which is audited.

        >>> for letter in client.dead_letters():
        ...     print(client.dead_letter(letter.id, text=True).content)
        """
        return self._cloud.run(steps.dead_letter(letter_id, text))

    def replay_dead_letter(self, letter_id: str) -> JobAnswer:
        """Put a dead letter's job back into its queue; the job, queued again.

        >>> for letter in client.dead_letters():
        ...     print(client.replay_dead_letter(letter.id).status)
        """
        return self._cloud.run(steps.replay_dead_letter(letter_id))

    def discard_dead_letter(self, letter_id: str) -> None:
        """Remove a dead letter for good; its job stays failed.

        >>> for letter in client.dead_letters():
        ...     client.discard_dead_letter(letter.id)
        """
        self._cloud.run(steps.discard_dead_letter(letter_id))

    def join_token(self, queues: Sequence[str] = ()) -> JoinTokenAnswer:
        """A token for one machine to join with, within the hour; needs an admin key.

        Raises `Conflict` where no other machine can reach the fleet's queues.

        >>> client.join_token().command
        Traceback (most recent call last):
        genie.errors.Conflict: this fleet runs in one process and no other machine ...
        """
        return self._cloud.run(steps.join_token(queues))

    def keys(self) -> tuple[KeyAnswer, ...]:
        """The API keys of your org, without their secrets; needs an admin key.

        >>> [key.name for key in client.keys() if key.is_admin]
        ['genie up']
        """
        return self._cloud.run(steps.keys())

    def create_key(
        self, name: str, *, admin: bool = False, models: Sequence[str] = ()
    ) -> KeyAnswer:
        """A new API key; its ``secret`` is shown this once. Needs an admin key.

        >>> key = client.create_key("ci", models=["echo:small"])
        >>> key.secret.startswith("sk-genie-local-")
        True
        """
        return self._cloud.run(steps.create_key(name, admin, models))

    def revoke_key(self, key: str) -> None:
        """Make a key, by its id or prefix, useless at once. Needs an admin key.

        >>> client.revoke_key(client.create_key("lost").id)
        """
        self._cloud.run(steps.revoke_key(key))

    def health(self) -> HealthAnswer:
        """Whether the cloud and what it stands on are well; needs no key.

        >>> client.health().status
        'ok'
        """
        return self._cloud.run(steps.health())
