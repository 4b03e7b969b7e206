"""The verbs of a client: the requests each sends and the type it returns.

`genie.Client` takes their steps one after the other, `genie.AsyncClient` awaits them.
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from genie.api_types import (
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
    RunAnswer,
    ScheduleAnswer,
    SkippedJob,
    WorkerAnswer,
    read,
    read_list,
)
from genie.sdk import batches, schedules
from genie.sdk.batches import BatchOptions, BatchRequests
from genie.sdk.chat import DEFAULT_PERSONA, GRACE_S, AskOptions, Question, check, submit
from genie.sdk.jobs import JobVerbs, fetch, follow, retry
from genie.sdk.many import AT_ONCE, answers
from genie.sdk.methods import C, OnCloud, items_verb, verb
from genie.sdk.requests import (
    JOBS,
    Call,
    Items,
    Steps,
    delete,
    get,
    item_path,
    job_path,
    post,
    strip_job_id_prefix,
)
from genie.sdk.results import (
    Embeddings,
    Result,
    embeddings,
)
from genie.sdk.schedules import ScheduleOptions
from genie.sdk.schemas import Schema

EMBED_PERSONA = "embed"
PROBE_S = 5.0

LETTERS = "/v1/dead-letters"
KEYS = "/v1/keys"
DELIVERIES = "/v1/webhook-deliveries"
RETENTION = "/v1/retention"


class RetryFilters(TypedDict, total=False):
    """Filters of a retry; each is optional."""

    state: str | None
    """Of a retry ``failed``, ``timeout`` or ``cancelled``; the first two by default."""
    persona: str | None
    model: str | None
    label: str | None
    worker: str | None
    """A worker's name or id."""
    since: float | None
    """Only jobs after this; seconds since 1970."""
    limit: int
    """How many; of a list 20 by default, at most 200."""


class JobListFilters(RetryFilters, total=False):
    """Filters of a list of jobs; each is optional."""

    after: str | None
    """The id of the previous page's last job."""


JobT = TypeVar("JobT", bound=JobVerbs[Any, Any])
ScheduleT = TypeVar("ScheduleT", bound=schedules.ScheduleVerbs[Any])
BatchT = TypeVar("BatchT", bound=batches.BatchVerbs[Any])


class ClientVerbs(OnCloud[C], Generic[C, JobT, ScheduleT, BatchT]):
    """The verbs of a client; its jobs, schedules and batches are of its own kind."""

    _job: type[JobT]
    _schedule: type[ScheduleT]
    _batch: type[BatchT]
    timeout: float

    @items_verb
    def map(
        self,
        prompts: Iterable[str],
        *,
        schema: Schema | None = None,
        at_once: int = AT_ONCE,
        progress: bool | None = None,
        **options: Unpack[AskOptions],
    ) -> Items[Result]:
        """The answer to each prompt, in order, as jobs.

        At most ``at_once`` are open at a time. Raises the error of a failed job
        when its turn comes; TypeError for ``idempotency_key`` (it names one job). On a
        terminal a bar shows the progress unless ``progress`` is False.

        >>> [result.text for result in client.map(["Say one.", "Say two."])]
        ['Say one.', 'Say two.']
        """
        if options.get("idempotency_key"):
            raise TypeError("an idempotency_key names one job; map makes its own")

        def submit_one(prompt: str) -> Steps[JobT]:
            question = Question(prompt=prompt, options=options, schema=schema)
            return self._job(self._cloud, (yield from submit(question)), schema)

        return answers(submit_one, prompts, at_once, progress)

    @verb
    def embed(
        self,
        texts: str | Sequence[str],
        *,
        persona: str | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Steps[Embeddings]:
        """A vector of length 1 for each text, in order; at most 256 texts at once.

        Without ``persona`` and ``model`` the persona ``embed`` does it. Raises a
        `genie.errors` class, `ContextTooLong` for a text over the model's window.

        >>> [len(vector) for vector in client.embed(["a cat", "a dog"]).vectors]
        [16, 16]
        """
        wait_s = self.timeout if timeout is None else timeout
        wanted: dict[str, object] = {
            "input": [texts] if isinstance(texts, str) else list(texts),
            "encoding_format": "base64",
            "deadline_s": wait_s,
        }
        if model:
            wanted["model"] = model
        if persona or not model:
            wanted["persona"] = persona or EMBED_PERSONA
        key = str(uuid.uuid4())
        call = post("/v1/embeddings", wanted, key=key, timeout_s=wait_s + GRACE_S)
        return embeddings(read(EmbeddingsAnswer, (yield call)))

    @verb
    def batch(
        self,
        requests: BatchRequests,
        *,
        schema: Schema | None = None,
        **options: Unpack[BatchOptions],
    ) -> Steps[BatchT]:
        """Submit many requests as a batch, at low priority; see `Batches`.

        With a ``schema`` each answer is parsed; one that does not match is the
        error of its line.

        >>> batch = client.batch(["Say hello.", "Say goodbye."])
        >>> [line.text for line in batch.results()]
        ['Say hello.', 'Say goodbye.']
        """
        made = yield from batches.submit(requests, options, schema)
        return self._batch(self._cloud, made, schema)

    @verb
    def route(
        self,
        prompt: str | None = None,
        *,
        persona: str | None = None,
        model: str | None = None,
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

    @verb
    def models(self) -> Steps[tuple[ModelAnswer, ...]]:
        """The catalog's models and which of them are ready.

        >>> [model.id for model in client.models()]
        ['echo:small', 'echo:large', 'echo:embed']
        """
        return read_list(ModelAnswer, (yield get("/v1/models")))

    @verb
    def personas(self) -> Steps[tuple[PersonaAnswer, ...]]:
        """The personas and their ladders of models, smallest first.

        >>> {persona.id: persona.ladder for persona in client.personas()}["chat"]
        ('echo:small', 'echo:large')
        """
        return read_list(PersonaAnswer, (yield get("/v1/personas")))

    @verb
    def jobs(self, **filters: Unpack[JobListFilters]) -> Steps[tuple[JobT, ...]]:
        """One page of your org's jobs, newest first.

        Raises TypeError for an unknown filter.

        >>> job = client.submit("Hello", persona="review").wait()
        >>> [found.id == job.id for found in client.jobs(persona="review", limit=1)]
        [True]
        """
        check(filters, JobListFilters)
        params = {name: str(v) for name, v in filters.items() if v is not None}
        found = read_list(JobAnswer, (yield get(JOBS, params)))
        return tuple(self._job(self._cloud, details) for details in found)

    @verb
    def job(self, job_id: str) -> Steps[JobT]:
        """The job with this id, with or without the ``chatcmpl-`` prefix.

        >>> job = client.submit("Hello")
        >>> client.job(job.id).result().text
        'Hello'
        """
        return self._job(self._cloud, (yield from fetch(job_id)))

    @verb
    def fetch_job(self, job_id: str) -> Steps[JobAnswer]:
        """A job's current state, as data.

        >>> job = client.submit("Hello").wait()
        >>> client.fetch_job(job.id).status.value
        'completed'
        """
        return fetch(job_id)

    @verb
    def retry_job(self, job_id: str) -> Steps[JobAnswer]:
        """Submit a failed job again; returns the new job, as data.

        >>> job = client.submit("Hello " * 500).cancel()
        >>> client.retry_job(job.id).retry_of == job.id
        True
        """
        return retry(job_id)

    @verb
    def retry_jobs(
        self, **filters: Unpack[RetryFilters]
    ) -> Steps[tuple[tuple[JobT, ...], tuple[SkippedJob, ...]]]:
        """Retry the newest matching jobs that did not complete.

        Returns the new jobs, and the jobs that could not be retried, with reasons.

        >>> made, skipped = client.retry_jobs(state="failed", persona="review")
        >>> len(made), len(skipped)
        (0, 0)
        """
        check(filters, RetryFilters)
        wanted = {name: value for name, value in filters.items() if value is not None}
        call = post(f"{JOBS}/retry", wanted, safe=True)
        found = read(RetryAnswer, (yield call))
        made = tuple(self._job(self._cloud, details) for details in found.data)
        return made, found.skipped

    @verb
    def job_timeline(self, job_id: str) -> Steps[tuple[JobEvent, ...]]:
        """A job's events so far, in order.

        >>> job = client.submit("Hello").wait()
        >>> [event.event for event in client.job_timeline(job.id)][:2]
        ['accepted', 'routed']
        """
        call = get(job_path(job_id), {"timeline": "true"})
        return read(JobDetails, (yield call)).timeline

    @items_verb
    def follow_job(self, job_id: str) -> Items[JobEvent]:
        """Yields a job's events as they happen until it has ended; see `Job.events`.

        >>> job = client.submit("Hello")
        >>> [event.event for event in client.follow_job(job.id)][-1]
        'completed'
        """
        return follow(job_id, self._cloud.now)

    @verb
    def schedule(
        self,
        prompt: str | None = None,
        *,
        cron: str,
        **options: Unpack[ScheduleOptions],
    ) -> Steps[ScheduleT]:
        """Ask this at the times of a cron line until the schedule is removed.

        Texts may contain ``{{date}}``, ``{{yesterday}}``, ``{{weekday}}`` and more.
        Raises `BadRequest` for a wrong cron line and `Conflict` for a taken name.

        >>> news = client.schedule(
        ...     "News of {{date}}?",
        ...     cron="30 7 * * 1-5",
        ...     name="news",
        ...     timezone="Europe/Berlin",
        ... )
        >>> news.details.in_words
        'At 07:30 on Monday through Friday (Europe/Berlin)'
        >>> news.remove()
        """
        body = schedules.body(prompt, cron, options)
        made = read(ScheduleAnswer, (yield post(schedules.PATH, body)))
        return self._schedule(self._cloud, made)

    @verb
    def schedules(self) -> Steps[tuple[ScheduleT, ...]]:
        """All schedules of your org, by name.

        >>> client.schedules()
        ()
        """
        found = read_list(ScheduleAnswer, (yield get(schedules.PATH)))
        return tuple(self._schedule(self._cloud, details) for details in found)

    @verb
    def find_schedule(self, name_or_id: str) -> Steps[ScheduleT]:
        """The schedule with this name or id; raises `NotFound`.

        >>> made = client.schedule("News?", cron="@daily", name="daily news")
        >>> client.find_schedule("daily news").details.cron
        '0 0 * * *'
        >>> made.remove()
        """
        found = yield from schedules.find(name_or_id)
        return self._schedule(self._cloud, found)

    @verb
    def change_schedule(self, name_or_id: str, verb: str) -> Steps[ScheduleAnswer]:
        """A schedule after ``pause`` or ``resume``, as data.

        >>> made = client.schedule("News?", cron="@daily", name="changed")
        >>> client.change_schedule("changed", "pause").paused
        True
        >>> client.remove_schedule("changed")
        """
        return schedules.change(name_or_id, verb)

    @verb
    def run_schedule(self, name_or_id: str) -> Steps[RunAnswer]:
        """Start a run of a schedule at once.

        >>> made = client.schedule("News?", cron="@daily", name="run now")
        >>> client.run_schedule("run now").status
        'started'
        >>> client.remove_schedule("run now")
        """
        return schedules.start_run(name_or_id)

    @verb
    def remove_schedule(self, name_or_id: str) -> Steps[None]:
        """Delete a schedule; its jobs stay.

        >>> made = client.schedule("News?", cron="@daily", name="removed")
        >>> client.remove_schedule("removed")
        """
        return schedules.remove(name_or_id)

    @verb
    def deliveries(
        self, job: str | None = None, *, limit: int = 20
    ) -> Steps[tuple[DeliveryAnswer, ...]]:
        """Webhook deliveries of the last week, newest first.

        >>> client.deliveries(limit=5)
        ()
        """
        params = {"limit": str(limit)} | (
            {"job": strip_job_id_prefix(job)} if job else {}
        )
        return read_list(DeliveryAnswer, (yield get(DELIVERIES, params)))

    @verb
    def redeliver(self, delivery_id: str) -> Steps[DeliveryAnswer]:
        """Send a webhook delivery again.

        >>> for told in client.deliveries():
        ...     if told.status == "failed":
        ...         client.redeliver(told.id)
        """
        call = post(f"{item_path(DELIVERIES, delivery_id)}/redeliver", safe=True)
        return read(DeliveryAnswer, (yield call))

    @verb
    def retention(self) -> Steps[RetentionAnswer]:
        """How long your org's texts are kept. Needs an admin key.

        >>> client.retention().kept_h
        24.0
        """
        return read(RetentionAnswer, (yield get(RETENTION)))

    @verb
    def set_retention(self, hours: int | None) -> Steps[RetentionAnswer]:
        """Keep texts for this many hours after a job's end; None: the cloud's setting.

        0 keeps nothing after delivery. Needs an admin key.

        >>> client.set_retention(2).kept_h
        2.0
        >>> client.set_retention(None).kept_h
        24.0
        """
        call = post(RETENTION, {"hours": hours}, method="PUT", safe=True)
        return read(RetentionAnswer, (yield call))

    @verb
    def workers(self) -> Steps[tuple[WorkerAnswer, ...]]:
        """The workers that serve your org; needs an admin key.

        >>> [worker.state for worker in client.workers()]
        ['online']
        """
        return read_list(WorkerAnswer, (yield get("/v1/workers")))

    @verb
    def queues(self) -> Steps[tuple[QueueAnswer, ...]]:
        """The depth of each queue; needs an admin key.

        >>> {queue.queue for queue in client.queues()}
        {'genie'}
        """
        return read_list(QueueAnswer, (yield get("/v1/queues")))

    @verb
    def fleet(self, *, jobs: int = 20) -> Steps[FleetAnswer]:
        """The whole fleet now, with this many ``jobs`` at most; needs an admin key.

        >>> fleet = client.fleet()
        >>> fleet.org, [worker.state for worker in fleet.workers]
        ('local', ['online'])
        """
        return read(FleetAnswer, (yield get("/v1/fleet", {"jobs": str(jobs)})))

    @verb
    def dead_letters(self) -> Steps[tuple[DeadLetterAnswer, ...]]:
        """Messages of your org that no worker could serve; needs an admin key.

        >>> for letter in client.dead_letters():
        ...     print(letter.id, letter.why)
        """
        return read_list(DeadLetterAnswer, (yield get(LETTERS)))

    @verb
    def dead_letter(
        self, letter_id: str, *, text: bool = False
    ) -> Steps[DeadLetterAnswer]:
        """One dead letter; its ``content`` only with ``text``, which is audited.

        >>> for letter in client.dead_letters():
        ...     print(client.dead_letter(letter.id, text=True).content)
        """
        params = {"text": "true"} if text else {}
        return read(
            DeadLetterAnswer, (yield get(item_path(LETTERS, letter_id), params))
        )

    @verb
    def replay_dead_letter(self, letter_id: str) -> Steps[JobAnswer]:
        """Put a dead letter's job back into its queue; returns the job.

        >>> for letter in client.dead_letters():
        ...     print(client.replay_dead_letter(letter.id).status)
        """
        return read(JobAnswer, (yield post(f"{item_path(LETTERS, letter_id)}/replay")))

    @verb
    def discard_dead_letter(self, letter_id: str) -> Steps[None]:
        """Remove a dead letter for good; its job stays failed.

        >>> for letter in client.dead_letters():
        ...     client.discard_dead_letter(letter.id)
        """
        yield delete(item_path(LETTERS, letter_id))

    @verb
    def join_token(self, queues: Sequence[str] = ()) -> Steps[JoinTokenAnswer]:
        """A token with which one machine may join within an hour; needs an admin key.

        Raises `Conflict` where no other machine can reach the fleet's queues.

        >>> client.join_token().command
        Traceback (most recent call last):
        genie.errors.Conflict: this fleet runs in one process and no other machine ...
        """
        wanted = {"queues": list(queues)} if queues else {}
        return read(JoinTokenAnswer, (yield post("/v1/join-tokens", wanted)))

    @verb
    def keys(self) -> Steps[tuple[KeyAnswer, ...]]:
        """The API keys of your org, without their secrets; needs an admin key.

        >>> [key.name for key in client.keys() if key.is_admin]
        ['genie up']
        """
        return read_list(KeyAnswer, (yield get(KEYS)))

    @verb
    def create_key(
        self, name: str, *, admin: bool = False, models: Sequence[str] = ()
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

    @verb
    def revoke_key(self, key: str) -> Steps[None]:
        """Revoke a key by its id or prefix, at once. Needs an admin key.

        >>> client.revoke_key(client.create_key("lost").id)
        """
        yield delete(item_path(KEYS, key))

    @verb
    def health(self) -> Steps[HealthAnswer]:
        """Whether the cloud, its database and its broker are well; needs no key.

        >>> client.health().status
        'ok'
        """
        call = Call(method="GET", path="/health", timeout_s=PROBE_S, is_probe=True)
        return read(HealthAnswer, (yield call))
