"""Many requests in one file: submitted, followed, read line by line."""

import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack, cast
from urllib.parse import quote

import msgspec

from genie.answers import Answer, Completion, Trouble, read, read_list
from genie.chat import Options, chat_body, check
from genie.contracts.batch import BatchState
from genie.errors import GenieError, JobCancelled, JobFailed, JobTimeout, Unavailable
from genie.files import FileAnswer, Files
from genie.jobs import PATIENCE_S, Result, completed, pauses
from genie.responses import error_of, raised
from genie.transport import Call, Clock, Transport

CHAT = "/v1/chat/completions"
LONGEST_PAUSE_S = 5.0
JSON = {"content-type": "application/json"}

OF_THE_WHOLE = ("endpoint", "idempotency_key", "metadata", "timeout", "window")
"""Options that belong to the batch, not to each of its lines."""

Requests = str | os.PathLike[str] | Mapping[str, str] | Iterable[str]
"""A path, prompts by custom_id, or prompts."""


class Counts(Answer, frozen=True):
    """How many requests a batch has, and how they ended."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class LineTrouble(Answer, frozen=True):
    """A mistake in a batch's input; ``line`` counts from 1."""

    message: str = ""
    code: str | None = None
    param: str | None = None
    line: int | None = None


class Troubles(Answer, frozen=True):
    """The mistakes in a batch's input."""

    data: tuple[LineTrouble, ...] = ()


class BatchAnswer(Answer, frozen=True):
    """A batch as the cloud knows it; times are seconds since 1970."""

    id: str
    status: BatchState
    endpoint: str = CHAT
    completion_window: str = ""
    model: str | None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int | None = None
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = Counts()
    errors: Troubles | None = None
    metadata: dict[str, str] | None = None


class _Response(Answer, frozen=True):
    status_code: int
    body: msgspec.Raw
    request_id: str | None = None


class _Row(Answer, frozen=True):
    custom_id: str
    response: _Response | None = None
    error: Trouble | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What one request of a batch came to: a result, or the error instead of it."""

    custom_id: str
    result: Result | None = None
    error: GenieError | None = None

    @property
    def text(self) -> str:
        """The answer; raises the error when there is none."""
        if self.result is None:
            raise self.error or JobFailed("this request has no answer; submit it again")
        return self.result.text


class Batch:
    """Submitted requests. ``status`` is what was last heard; `refresh` asks again."""

    def __init__(self, batches: "Batches", details: BatchAnswer) -> None:
        self.id = details.id
        self.details = details
        self._batches = batches

    def __repr__(self) -> str:
        return f"Batch(id={self.id!r}, status={self.status.value!r})"

    @property
    def status(self) -> BatchState:
        """The state last heard of, without asking again."""
        return self.details.status

    @property
    def counts(self) -> Counts:
        """How many requests there are and how many ended, as last heard."""
        return self.details.request_counts

    def refresh(self) -> "Batch":
        """Ask the cloud for the batch's state now; returns this batch."""
        self.details = self._batches.fetch(self.id)
        return self

    def done(self) -> bool:
        """True when nothing can change the batch any more; asks unless known."""
        return self.status.is_terminal or self.refresh().status.is_terminal

    def cancel(self) -> "Batch":
        """Stop the batch; the answers it has are kept. Returns this batch."""
        self.details = self._batches.cancel(self.id)
        return self

    def wait(self, timeout: float | None = None) -> "Batch":
        """Wait until the batch has ended, at most ``timeout`` seconds.

        Raises `JobTimeout` (code ``wait_timeout``) when it takes longer; the batch
        itself goes on.
        """
        clock = self._batches.clock
        until = None if timeout is None else clock.now() + timeout
        for pause in self._polls():
            left = LONGEST_PAUSE_S if until is None else until - clock.now()
            if left <= 0:
                raise JobTimeout(
                    f"{self.id} is still {self.status.value} after {timeout:g} s and "
                    "goes on; wait again with wait(), or stop it with cancel()",
                    code="wait_timeout",
                )
            clock.sleep(min(pause, left))
        return self

    def results(self) -> Iterator[BatchResult]:
        """Every request with its answer or error, read as they arrive.

        Waits for the end of the batch. Raises `JobFailed` when the input was wrong.
        """
        self.wait()
        if self.status is BatchState.FAILED:
            raise JobFailed(_why(self.details), code="batch_failed")
        for file_id in (self.details.output_file_id, self.details.error_file_id):
            if file_id is not None:
                for line in self._batches.files.lines(file_id):
                    yield result_of(line)

    def _polls(self) -> Iterator[float]:
        away_since: float | None = None
        clock = self._batches.clock
        for pause in pauses(LONGEST_PAUSE_S):
            try:
                if self.done():
                    return
                away_since = None
            except Unavailable:
                away_since = clock.now() if away_since is None else away_since
                if clock.now() - away_since > PATIENCE_S:
                    raise
            yield pause


class BatchOptions(Options, total=False):
    """How to run a batch; each is optional."""

    window: str
    """How long it may take: 24h, or less, like 1h or 30m."""
    endpoint: str
    """What the lines of a file are for; chat completions unless given."""


class Batches:
    """The batches of your org."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self.clock = clock
        self.files = Files(transport)

    def submit(self, requests: Requests, **options: Unpack[BatchOptions]) -> Batch:
        """Run many requests in the time that interactive work leaves.

        ``requests`` are prompts, prompts by custom_id, or the path of a file of lines
        ``{custom_id, method, url, body}``. Persona, model and the other options of a
        question go for prompts; a file says them line by line.

            batch = client.batches.submit(["Say hello.", "Say goodbye."])
            for line in batch.results():
                print(line.custom_id, line.text)
        """
        check(options, BatchOptions)
        uploaded = self._uploaded(requests, options)
        body: dict[str, object] = {
            "input_file_id": uploaded.id,
            "endpoint": options.get("endpoint") or CHAT,
            "completion_window": options.get("window") or "24h",
        }
        if (metadata := options.get("metadata")) is not None:
            body["metadata"] = dict(metadata)
        key = options.get("idempotency_key") or str(uuid.uuid4())
        call = Call(
            method="POST",
            path="/v1/batches",
            body=msgspec.json.encode(body),
            headers=JSON | {"idempotency-key": key},
            is_repeatable=True,
        )
        return Batch(self, read(BatchAnswer, self._transport.call(call)))

    def get(self, batch_id: str) -> Batch:
        """One batch by its id; raises `NotFound`."""
        return Batch(self, self.fetch(batch_id))

    def fetch(self, batch_id: str) -> BatchAnswer:
        """A batch's state now, as data; raises `NotFound`."""
        call = Call(method="GET", path=_path(batch_id), is_repeatable=True)
        return read(BatchAnswer, self._transport.call(call))

    def cancel(self, batch_id: str) -> BatchAnswer:
        """Stop a batch; its state after that, as data."""
        path = f"{_path(batch_id)}/cancel"
        call = Call(method="POST", path=path, is_repeatable=True)
        return read(BatchAnswer, self._transport.call(call))

    def list(self, *, limit: int = 20, after: str | None = None) -> tuple[Batch, ...]:
        """Batches of your org, newest first, one page of them."""
        params = {"limit": str(limit)} | ({"after": after} if after else {})
        call = Call(method="GET", path="/v1/batches", params=params, is_repeatable=True)
        found = read_list(BatchAnswer, self._transport.call(call))
        return tuple(Batch(self, details) for details in found)

    def _uploaded(self, requests: Requests, options: BatchOptions) -> FileAnswer:
        if isinstance(requests, str | os.PathLike):
            return self.files.upload(requests)
        with tempfile.TemporaryDirectory(prefix="genie-") as folder:
            path = Path(folder) / "requests.jsonl"
            with path.open("wb") as out:
                for line in lines(requests, options):
                    out.write(msgspec.json.encode(line) + b"\n")
            return self.files.upload(path)


def lines(
    requests: Mapping[str, str] | Iterable[str], options: BatchOptions
) -> Iterator[dict[str, object]]:
    """The lines of a batch's input; prompts without a name are numbered from 1.

    >>> [line["custom_id"] for line in lines(["a", "b"], {})]
    ['1', '2']
    """
    named = requests.items() if isinstance(requests, Mapping) else _numbered(requests)
    asked = {name: one for name, one in options.items() if name not in OF_THE_WHOLE}
    for custom_id, prompt in named:
        body = chat_body(prompt, cast(Options, asked), mode="sync")
        yield {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def result_of(line: str) -> BatchResult:
    """A line of a result file."""
    row = read(_Row, line)
    if row.response is None:
        trouble = row.error or Trouble(message="this request was not run")
        return BatchResult(custom_id=row.custom_id, error=raised(trouble, JobCancelled))
    body = bytes(row.response.body)
    if row.response.status_code >= 400:
        headers = {"x-request-id": row.response.request_id or ""}
        error = error_of(row.response.status_code, headers, body)
        return BatchResult(custom_id=row.custom_id, error=error)
    answer = completed(read(Completion, body))
    return BatchResult(custom_id=row.custom_id, result=answer)


def _numbered(prompts: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((str(number), prompt) for number, prompt in enumerate(prompts, 1))


def _why(details: BatchAnswer) -> str:
    found = details.errors.data if details.errors else ()
    shown = "; ".join(
        f"line {one.line}: {one.message}" if one.line else one.message
        for one in found[:3]
    )
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return f"the input of {details.id} cannot be run: {shown or 'unknown'}{more}"


def _path(batch_id: str) -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}"
