"""The verbs of the API as steps: the request each sends and the type it returns.

`genie.sdk.client` takes the steps one after the other, `genie.sdk.aio` awaits them. A
verb of the same name there has the text and the examples of the one here.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from genie.api_types import (
    AcceptedJob,
    ChatCompletion,
    DeadLetterAnswer,
    DecisionAnswer,
    DeliveryAnswer,
    EmbeddingsAnswer,
    FleetAnswer,
    HealthAnswer,
    JobAnswer,
    JobDetails,
    JobEvent,
    JoinTokenAnswer,
    KeyAnswer,
    ModelAnswer,
    NewKeyAnswer,
    PersonaAnswer,
    QueueAnswer,
    RetentionAnswer,
    RetryAnswer,
    RouteAnswer,
    WorkerAnswer,
    read,
    read_list,
)
from genie.sdk.chat import DEFAULT_PERSONA, AskOptions, chat_body, check
from genie.sdk.jobs import PATH, fetch
from genie.sdk.requests import (
    READ_S,
    Call,
    Probe,
    Steps,
    delete,
    get,
    idempotent_post,
    item_path,
    post,
)
from genie.sdk.results import (
    Embeddings,
    Result,
    embeddings,
    result_from_completion,
    strip_job_id_prefix,
)
from genie.sdk.schemas import Schema, response_format

ASK_PATH = "/v1/chat/completions"
EMBED_PERSONA = "embed"

GRACE_S = 10.0
"""How much longer than the job's deadline we listen, to hear why it did not end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt, its options and the schema of its answer."""

    prompt: str | None
    options: AskOptions
    schema: Schema | None = None

    def call(self, mode: str, deadline_s: float | None, listen_s: float) -> Call:
        """The HTTP request that asks it."""
        chat = chat_body(self.prompt, self.options, mode=mode)
        if self.schema is not None:
            chat["response_format"] = response_format(self.schema)
        if deadline_s is not None:
            chat["deadline_s"] = deadline_s
        key = self.options.get("idempotency_key") or str(uuid.uuid4())
        return idempotent_post(ASK_PATH, chat, key, timeout_s=listen_s)

    def watched(self, mode: str, patience_s: float) -> Call:
        """The same for a caller who waits: the job ends when the wait does."""
        timeout = self.options.get("timeout") or patience_s
        return self.call(mode, timeout, timeout + GRACE_S)


def ask(question: Question, patience_s: float) -> Steps[Result]:
    """Wait for the answer."""
    said = yield question.watched("sync", patience_s)
    return result_from_completion(read(ChatCompletion, said), schema=question.schema)


def submit(question: Question) -> Steps[JobAnswer]:
    """The question as a job."""
    accepted = read(AcceptedJob, (yield question.call("async", None, READ_S)))
    if accepted.status.is_terminal:  # an idempotency key met the job of before
        return (yield from fetch(accepted.id))
    return JobAnswer(
        id=accepted.id,
        status=accepted.status,
        model=accepted.model,
        model_substituted=accepted.model_substituted,
        created_at=accepted.created or None,
    )


def embed(
    texts: str | Sequence[str],
    persona: str | None,
    model: str | None,
    timeout: float,
) -> Steps[Embeddings]:
    """A vector for each text."""
    wanted: dict[str, object] = {
        "input": [texts] if isinstance(texts, str) else list(texts),
        "encoding_format": "base64",
        "deadline_s": timeout,
    }
    if model:
        wanted["model"] = model
    if persona or not model:
        wanted["persona"] = persona or EMBED_PERSONA
    key = str(uuid.uuid4())
    call = idempotent_post("/v1/embeddings", wanted, key, timeout_s=timeout + GRACE_S)
    return embeddings(read(EmbeddingsAnswer, (yield call)))


def route(
    prompt: str | None = None, *, persona: str | None = None, model: str | None = None
) -> Steps[RouteAnswer]:
    """Where a question would go, and why, without running it.

    >>> client.route(persona="review").model
    'echo:small'
    """
    wanted = {"persona": persona, "model": model, "input": prompt}
    if not persona and not model:
        wanted["persona"] = DEFAULT_PERSONA
    given = {name: value for name, value in wanted.items() if value}
    return read(DecisionAnswer, (yield post("/v1/route", given, safe=True))).route


def models() -> Steps[tuple[ModelAnswer, ...]]:
    """The catalog's models and which of them are ready.

    >>> [model.id for model in client.models()]
    ['echo:small', 'echo:large', 'echo:embed']
    """
    return read_list(ModelAnswer, (yield get("/v1/models")))


def personas() -> Steps[tuple[PersonaAnswer, ...]]:
    """The personas and their ladders of models, smallest first.

    >>> {persona.id: persona.ladder for persona in client.personas()}["chat"]
    ('echo:small', 'echo:large')
    """
    return read_list(PersonaAnswer, (yield get("/v1/personas")))


LETTERS = "/v1/dead-letters"
KEYS = "/v1/keys"


def workers() -> Steps[tuple[WorkerAnswer, ...]]:
    """The workers that serve your org; needs an admin key.

    >>> [worker.state for worker in client.workers()]
    ['online']
    """
    return read_list(WorkerAnswer, (yield get("/v1/workers")))


def queues() -> Steps[tuple[QueueAnswer, ...]]:
    """The depth of each queue; needs an admin key.

    >>> {queue.queue for queue in client.queues()}
    {'genie'}
    """
    return read_list(QueueAnswer, (yield get("/v1/queues")))


def fleet(*, jobs: int = 20) -> Steps[FleetAnswer]:
    """The whole fleet now, with this many ``jobs`` at most; needs an admin key.

    >>> fleet = client.fleet()
    >>> fleet.org, [worker.state for worker in fleet.workers]
    ('local', ['online'])
    """
    return read(FleetAnswer, (yield get("/v1/fleet", {"jobs": str(jobs)})))


def dead_letters() -> Steps[tuple[DeadLetterAnswer, ...]]:
    """Messages of your org that no worker could serve; needs an admin key.

    >>> for letter in client.dead_letters():
    ...     print(letter.id, letter.why)
    """
    return read_list(DeadLetterAnswer, (yield get(LETTERS)))


def dead_letter(letter_id: str, *, text: bool = False) -> Steps[DeadLetterAnswer]:
    """One dead letter; its ``content`` only with ``text``, which is audited.

    >>> for letter in client.dead_letters():
    ...     print(client.dead_letter(letter.id, text=True).content)
    """
    params = {"text": "true"} if text else {}
    return read(DeadLetterAnswer, (yield get(item_path(LETTERS, letter_id), params)))


def replay_dead_letter(letter_id: str) -> Steps[JobAnswer]:
    """Put a dead letter's job back into its queue; returns the job.

    >>> for letter in client.dead_letters():
    ...     print(client.replay_dead_letter(letter.id).status)
    """
    return read(JobAnswer, (yield post(f"{item_path(LETTERS, letter_id)}/replay")))


def discard_dead_letter(letter_id: str) -> Steps[None]:
    """Remove a dead letter for good; its job stays failed.

    >>> for letter in client.dead_letters():
    ...     client.discard_dead_letter(letter.id)
    """
    yield delete(item_path(LETTERS, letter_id))


def join_token(queues: Sequence[str] = ()) -> Steps[JoinTokenAnswer]:
    """A token with which one machine may join within an hour; needs an admin key.

    Raises `Conflict` where no other machine can reach the fleet's queues.

    >>> client.join_token().command
    Traceback (most recent call last):
    genie.errors.Conflict: this fleet runs in one process and no other machine ...
    """
    wanted = {"queues": list(queues)} if queues else {}
    return read(JoinTokenAnswer, (yield post("/v1/join-tokens", wanted)))


def keys() -> Steps[tuple[KeyAnswer, ...]]:
    """The API keys of your org, without their secrets; needs an admin key.

    >>> [key.name for key in client.keys() if key.is_admin]
    ['genie up']
    """
    return read_list(KeyAnswer, (yield get(KEYS)))


def create_key(
    name: str, *, admin: bool = False, models: Sequence[str] = ()
) -> Steps[NewKeyAnswer]:
    """A new API key; its ``secret`` is shown this once. Needs an admin key.

    >>> key = client.create_key("ci", models=["echo:small"])
    >>> key.secret.startswith("sk-genie-local-")
    True
    """
    wanted: dict[str, object] = {"name": name, "is_admin": admin}
    if models:
        wanted["allowed_models"] = list(models)
    return read(NewKeyAnswer, (yield post(KEYS, wanted)))


def revoke_key(key: str) -> Steps[None]:
    """Revoke a key by its id or prefix, at once. Needs an admin key.

    >>> client.revoke_key(client.create_key("lost").id)
    """
    yield delete(item_path(KEYS, key))


def health() -> Steps[HealthAnswer]:
    """Whether the cloud, its database and its broker are well; needs no key.

    >>> client.health().status
    'ok'
    """
    return read(HealthAnswer, (yield Probe(path="/health")))


DELIVERIES = "/v1/webhook-deliveries"
RETENTION = "/v1/retention"


class JobListFilters(TypedDict, total=False):
    """Filters of a list of jobs; each is optional."""

    state: str | None
    persona: str | None
    model: str | None
    label: str | None
    worker: str | None
    """A worker's name or id."""
    since: float | None
    """Only jobs after this; seconds since 1970."""
    limit: int
    """How many; 20 by default, at most 200."""
    after: str | None
    """The id of the previous page's last job."""


class RetryFilters(TypedDict, total=False):
    """Filters of a retry; each is optional."""

    state: str | None
    """``failed``, ``timeout`` or ``cancelled``; the first two by default."""
    persona: str | None
    model: str | None
    label: str | None
    worker: str | None
    since: float | None
    limit: int


def jobs(filters: JobListFilters) -> Steps[tuple[JobAnswer, ...]]:
    """One page of jobs."""
    check(filters, JobListFilters)
    params = {name: str(v) for name, v in filters.items() if v is not None}
    return read_list(JobAnswer, (yield get(PATH, params)))


def retry_jobs(filters: RetryFilters) -> Steps[RetryAnswer]:
    """Retry the newest matching jobs that did not complete."""
    check(filters, RetryFilters)
    wanted = {name: value for name, value in filters.items() if value is not None}
    call = post(f"{PATH}/retry", wanted, safe=True)
    return read(RetryAnswer, (yield call))


def timeline(job_id: str) -> Steps[tuple[JobEvent, ...]]:
    """A job's events so far, in order.

    >>> job = client.submit("Hello").wait()
    >>> [event.event for event in client.job_timeline(job.id)][:2]
    ['accepted', 'routed']
    """
    call = get(item_path(PATH, strip_job_id_prefix(job_id)), {"timeline": "true"})
    return read(JobDetails, (yield call)).timeline


def deliveries(
    job: str | None = None, *, limit: int = 20
) -> Steps[tuple[DeliveryAnswer, ...]]:
    """Webhook deliveries of the last week, newest first.

    >>> client.deliveries(limit=5)
    ()
    """
    params = {"limit": str(limit)} | ({"job": strip_job_id_prefix(job)} if job else {})
    return read_list(DeliveryAnswer, (yield get(DELIVERIES, params)))


def redeliver(delivery_id: str) -> Steps[DeliveryAnswer]:
    """Send a webhook delivery again.

    >>> for told in client.deliveries():
    ...     if told.status == "failed":
    ...         client.redeliver(told.id)
    """
    call = post(f"{item_path(DELIVERIES, delivery_id)}/redeliver", safe=True)
    return read(DeliveryAnswer, (yield call))


def retention() -> Steps[RetentionAnswer]:
    """How long your org's texts are kept. Needs an admin key.

    >>> client.retention().kept_h
    24.0
    """
    return read(RetentionAnswer, (yield get(RETENTION)))


def set_retention(hours: int | None) -> Steps[RetentionAnswer]:
    """Keep texts for this many hours after a job's end; None: the cloud's setting.

    0 keeps nothing after delivery. Needs an admin key.

    >>> client.set_retention(2).kept_h
    2.0
    >>> client.set_retention(None).kept_h
    24.0
    """
    call = post(RETENTION, {"hours": hours}, method="PUT", safe=True)
    return read(RetentionAnswer, (yield call))
