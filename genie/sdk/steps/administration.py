"""The fleet from its owner's side: workers, queues, dead letters, keys, health."""

from collections.abc import Sequence

from genie.api_types import (
    DeadLetterAnswer,
    HealthAnswer,
    JobAnswer,
    JoinTokenAnswer,
    KeyAnswer,
    QueueAnswer,
    WorkerAnswer,
    read,
    read_list,
)
from genie.sdk.overview import FleetAnswer
from genie.sdk.requests import Probe, Steps, delete, get, item_path, post

LETTERS = "/v1/dead-letters"
KEYS = "/v1/keys"


def workers() -> Steps[tuple[WorkerAnswer, ...]]:
    """The workers that serve the org."""
    return read_list(WorkerAnswer, (yield get("/v1/workers")))


def queues() -> Steps[tuple[QueueAnswer, ...]]:
    """How deep each queue is."""
    return read_list(QueueAnswer, (yield get("/v1/queues")))


def fleet(jobs: int) -> Steps[FleetAnswer]:
    """The whole fleet now."""
    return read(FleetAnswer, (yield get("/v1/fleet", {"jobs": str(jobs)})))


def dead_letters() -> Steps[tuple[DeadLetterAnswer, ...]]:
    """Messages that no worker could serve."""
    return read_list(DeadLetterAnswer, (yield get(LETTERS)))


def dead_letter(letter_id: str, text: bool) -> Steps[DeadLetterAnswer]:
    """One dead letter."""
    params = {"text": "true"} if text else {}
    return read(DeadLetterAnswer, (yield get(item_path(LETTERS, letter_id), params)))


def replay_dead_letter(letter_id: str) -> Steps[JobAnswer]:
    """Put a dead letter's job back into its queue."""
    return read(JobAnswer, (yield post(f"{item_path(LETTERS, letter_id)}/replay")))


def discard_dead_letter(letter_id: str) -> Steps[None]:
    """Remove a dead letter for good."""
    yield delete(item_path(LETTERS, letter_id))


def join_token(queues: Sequence[str]) -> Steps[JoinTokenAnswer]:
    """A token for one machine."""
    wanted = {"queues": list(queues)} if queues else {}
    return read(JoinTokenAnswer, (yield post("/v1/join-tokens", wanted)))


def keys() -> Steps[tuple[KeyAnswer, ...]]:
    """The API keys of the org."""
    return read_list(KeyAnswer, (yield get(KEYS)))


def create_key(name: str, admin: bool, models: Sequence[str]) -> Steps[KeyAnswer]:
    """A new API key."""
    wanted: dict[str, object] = {"name": name, "is_admin": admin}
    if models:
        wanted["allowed_models"] = list(models)
    return read(KeyAnswer, (yield post(KEYS, wanted)))


def revoke_key(key: str) -> Steps[None]:
    """Make a key useless at once."""
    yield delete(item_path(KEYS, key))


def health() -> Steps[HealthAnswer]:
    """Whether the cloud and what it stands on are well."""
    return read(HealthAnswer, (yield Probe(path="/health")))
