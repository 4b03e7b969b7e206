"""The cloud's HTTP API as Python objects; used by people and by the CLI."""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypedDict, Unpack
from urllib.parse import quote

import msgspec

from genie import answers, env
from genie.answers import (
    Completion,
    DeadLetterAnswer,
    DecisionAnswer,
    EmbeddingsAnswer,
    HealthAnswer,
    JobAnswer,
    JoinTokenAnswer,
    KeyAnswer,
    ModelAnswer,
    PersonaAnswer,
    QueueAnswer,
    RouteAnswer,
    WorkerAnswer,
)
from genie.batches import Batch, Batches, BatchOptions, Requests
from genie.chat import DEFAULT_PERSONA, Options, chat_body, check
from genie.credentials import Credentials, resolve
from genie.embeddings import Embeddings, embeddings
from genie.jobs import Job, Result, bare, completed
from genie.many import AT_ONCE
from genie.schedules import Schedule, ScheduleOptions
from genie.streaming import OnWait, Stream
from genie.transport import READ_S, Body, Call, Clock, Transport
from genie.work import Work

if TYPE_CHECKING:
    from httpx2 import BaseTransport

GRACE_S = 10.0
"""How much longer we listen than the job may take, to hear why it did not end."""

ASK_PATH = "/v1/chat/completions"
EMBED_PERSONA = "embed"
JSON = {"content-type": "application/json"}


class Filters(TypedDict, total=False):
    """Which jobs to list; each is optional."""

    state: str | None
    persona: str | None
    model: str | None
    worker: str | None
    """A worker's name or id."""
    since: float | None
    """Only newer ones; seconds since 1970."""
    limit: int
    """At most so many; 20 unless given, 200 at most."""
    after: str | None
    """The id of the last job of the page before."""


class Client(Work):
    """One cloud, seen with one API key; safe to share between threads.

    ``url`` and ``api_key`` default to ``GENIE_URL`` and ``GENIE_API_KEY``, else to what
    `genie up` saved on this machine. ``timeout`` is the seconds an answer may take when
    a call does not say; ``retry_s`` the seconds a call may spend waiting between tries
    when the cloud is away or overloaded. ``transport`` is an httpx2 transport, for an
    unusual network.

        with genie.Client("https://genie.example.com", "sk-genie-…") as client:
            print(client.ask("Say hello in one word.").text)
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | None = None,
        retry_s: float = 10.0,
        transport: "BaseTransport | None" = None,
        clock: Clock | None = None,
    ) -> None:
        settings = env.read(env.ClientSettings)
        credentials = resolve(
            replace(
                settings,
                url=url or settings.url,
                api_key=api_key or settings.api_key,
            )
        )
        self.url = credentials.url
        self.timeout = settings.timeout_s if timeout is None else timeout
        self._clock = clock or Clock()
        self._transport = Transport(
            credentials, retry_s=retry_s, clock=self._clock, inner=transport
        )
        self.batches = Batches(self._transport, self._clock)
        self.files = self.batches.files

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def ask(self, prompt: str | None = None, **options: Unpack[Options]) -> Result:
        """The answer to ``prompt``, waited for.

        Without ``persona`` and ``model`` the persona ``chat`` answers. Raises a
        `genie.errors` class: `UnknownModel`, `ContextTooLong`, `NoCapacity`,
        `JobFailed`, `JobTimeout`, `CloudUnreachable` …
        """
        call = self._ask(prompt, options, mode="sync")
        return completed(answers.read(Completion, self._transport.call(call)))

    def submit(self, prompt: str | None = None, **options: Unpack[Options]) -> Job:
        """The same question as a job that goes on without you; see `Job.result`."""
        call = self._ask(prompt, options, mode="async", listen_s=READ_S)
        return Job(self, answers.read(JobAnswer, self._transport.call(call)))

    def stream(
        self,
        prompt: str | None = None,
        *,
        on_wait: OnWait | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """The answer in pieces, while it is written.

        ``on_wait`` is told the place in the queue as long as nothing has started.
        """
        call = self._ask(prompt, options, mode="stream")
        response = self._transport.send(call, stream=True)
        job_id = response.headers.get("x-genie-job-id")
        return Stream(
            Body(self.url, call, response),
            job_id=bare(job_id) if job_id else None,
            on_wait=on_wait,
        )

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        persona: str | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Embeddings:
        """A vector of length 1 for each text, in their order; at most 256 at once.

        Without ``persona`` and ``model`` the persona ``embed`` does it. Raises a
        `genie.errors` class, `ContextTooLong` for a text over the model's window.
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
        call = Call(
            method="POST",
            path="/v1/embeddings",
            body=msgspec.json.encode(wanted),
            headers=JSON | {"idempotency-key": str(uuid.uuid4())},
            timeout_s=wait_s + GRACE_S,
            is_repeatable=True,
        )
        return embeddings(answers.read(EmbeddingsAnswer, self._transport.call(call)))

    def batch(self, requests: Requests, **options: Unpack[BatchOptions]) -> Batch:
        """Many requests at once, in what interactive work leaves; see `Batches`."""
        return self.batches.submit(requests, **options)

    def route(
        self,
        prompt: str | None = None,
        *,
        persona: str | None = None,
        model: str | None = None,
    ) -> RouteAnswer:
        """Where such a question would go, and why, without running it."""
        wanted = {"persona": persona, "model": model, "input": prompt}
        if not persona and not model:
            wanted["persona"] = DEFAULT_PERSONA
        given = {name: value for name, value in wanted.items() if value}
        body = self._post("/v1/route", given, safe=True)
        return answers.read(DecisionAnswer, body).route

    def models(self) -> tuple[ModelAnswer, ...]:
        """The catalog's models and which of them are ready."""
        return answers.read_list(ModelAnswer, self._get("/v1/models"))

    def personas(self) -> tuple[PersonaAnswer, ...]:
        """The personas and their ladders of models, smallest first."""
        return answers.read_list(PersonaAnswer, self._get("/v1/personas"))

    def jobs(self, **filters: Unpack[Filters]) -> tuple[Job, ...]:
        """Jobs of your org, newest first, one page of them.

        Raises TypeError for a filter that does not exist.
        """
        check(filters, Filters)
        params = {name: str(v) for name, v in filters.items() if v is not None}
        found = answers.read_list(JobAnswer, self._get("/v1/jobs", params))
        return tuple(Job(self, details) for details in found)

    def job(self, job_id: str) -> Job:
        """One job by its id, with or without the ``chatcmpl-`` prefix."""
        return Job(self, self.fetch_job(job_id))

    def workers(self) -> tuple[WorkerAnswer, ...]:
        """The workers that serve your org; needs an admin key."""
        return answers.read_list(WorkerAnswer, self._get("/v1/workers"))

    def queues(self) -> tuple[QueueAnswer, ...]:
        """How deep each queue is; needs an admin key."""
        return answers.read_list(QueueAnswer, self._get("/v1/queues"))

    def dead_letters(self) -> tuple[DeadLetterAnswer, ...]:
        """Messages of your org that no worker could serve; needs an admin key."""
        return answers.read_list(DeadLetterAnswer, self._get("/v1/dead-letters"))

    def dead_letter(self, letter_id: str, *, text: bool = False) -> DeadLetterAnswer:
        """One dead letter; its ``content`` only with ``text``, which is audited."""
        params = {"text": "true"} if text else {}
        body = self._get(_letter_path(letter_id), params)
        return answers.read(DeadLetterAnswer, body)

    def replay_dead_letter(self, letter_id: str) -> JobAnswer:
        """Put a dead letter's job back into its queue; the job, queued again."""
        body = self._post(f"{_letter_path(letter_id)}/replay", {})
        return answers.read(JobAnswer, body)

    def discard_dead_letter(self, letter_id: str) -> None:
        """Remove a dead letter for good; its job stays failed."""
        self._delete(_letter_path(letter_id))

    def join_token(self, queues: Sequence[str] = ()) -> JoinTokenAnswer:
        """A token for one machine to join with, within the hour; needs an admin key."""
        wanted = {"queues": list(queues)} if queues else {}
        return answers.read(JoinTokenAnswer, self._post("/v1/join-tokens", wanted))

    def keys(self) -> tuple[KeyAnswer, ...]:
        """The API keys of your org, without their secrets; needs an admin key."""
        return answers.read_list(KeyAnswer, self._get("/v1/keys"))

    def create_key(
        self, name: str, *, admin: bool = False, models: Sequence[str] = ()
    ) -> KeyAnswer:
        """A new API key; its ``secret`` is shown this once. Needs an admin key."""
        wanted: dict[str, object] = {"name": name, "is_admin": admin}
        if models:
            wanted["allowed_models"] = list(models)
        return answers.read(KeyAnswer, self._post("/v1/keys", wanted))

    def revoke_key(self, key: str) -> None:
        """Make a key, by its id or prefix, useless at once. Needs an admin key."""
        self._delete(f"/v1/keys/{quote(key, safe='')}")

    def health(self) -> HealthAnswer:
        """Whether the cloud and what it stands on are well; needs no key."""
        return answers.read(HealthAnswer, self._transport.probe("/health").content)

    def _ask(
        self,
        prompt: str | None,
        options: Options,
        *,
        mode: str,
        listen_s: float | None = None,
    ) -> Call:
        timeout = options.get("timeout") or self.timeout
        chat = chat_body(prompt, options, mode=mode)
        if listen_s is None:  # we wait ourselves, so the job ends when we stop waiting
            chat["deadline_s"] = timeout
        key = options.get("idempotency_key") or str(uuid.uuid4())
        return Call(
            method="POST",
            path=ASK_PATH,
            body=msgspec.json.encode(chat),
            headers=JSON | {"idempotency-key": key},
            timeout_s=timeout + GRACE_S if listen_s is None else listen_s,
            is_repeatable=True,
        )

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        call = Call(method="GET", path=path, params=params or {}, is_repeatable=True)
        return self._transport.call(call)

    def _delete(self, path: str) -> bytes:
        return self._transport.call(
            Call(method="DELETE", path=path, is_repeatable=True)
        )

    def _post(
        self, path: str, data: Mapping[str, object], *, safe: bool = False
    ) -> bytes:
        call = Call(
            method="POST",
            path=path,
            body=msgspec.json.encode(data),
            headers=JSON,
            is_repeatable=safe,
        )
        return self._transport.call(call)


def ask(prompt: str | None = None, **options: Unpack[Options]) -> Result:
    """The answer to ``prompt``, waited for; see `Client.ask`.

    print(genie.ask("Say hello in one word."))
    """
    return default().ask(prompt, **options)


def submit(prompt: str | None = None, **options: Unpack[Options]) -> Job:
    """The question as a job; see `Client.submit`.

    job = genie.submit("Summarise: …", persona="rollup")
    print(job.result().text)
    """
    return default().submit(prompt, **options)


def stream(
    prompt: str | None = None,
    *,
    on_wait: OnWait | None = None,
    **options: Unpack[Options],
) -> Stream:
    """The answer in pieces, while it is written; see `Client.stream`.

    for piece in genie.stream("Tell a short story."):
        print(piece, end="", flush=True)
    """
    return default().stream(prompt, on_wait=on_wait, **options)


def map(  # noqa: A001  # what Python calls it
    prompts: Iterable[str],
    *,
    at_once: int = AT_ONCE,
    **options: Unpack[Options],
) -> Iterator[Result]:
    """The answer to each prompt, in their order; see `Client.map`.

    for result in genie.map(["Say one.", "Say two."]):
        print(result)
    """
    return default().map(prompts, at_once=at_once, **options)


def schedule(
    prompt: str | None = None, *, cron: str, **options: Unpack[ScheduleOptions]
) -> Schedule:
    """Ask this at the times of a cron line; see `Client.schedule`.

    genie.schedule("News of {{date}}?", cron="@daily", name="news")
    """
    return default().schedule(prompt, cron=cron, **options)


def default() -> Client:
    """The client behind `ask`, `submit` and `stream`, by the settings of now."""
    settings = env.read(env.ClientSettings)
    # a connection must not be shared with the process we were forked from
    return _shared(resolve(settings), settings.timeout_s, os.getpid())


@lru_cache(maxsize=8)
def _shared(credentials: Credentials, timeout: float, _process: int) -> Client:
    return Client(credentials.url, credentials.api_key, timeout=timeout)


def _letter_path(letter_id: str) -> str:
    return f"/v1/dead-letters/{quote(letter_id, safe='')}"
