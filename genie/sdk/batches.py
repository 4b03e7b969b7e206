"""Batches: submits requests as lines, reads results line by line."""

import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, Unpack, cast

import msgspec

from genie.api_types import (
    ApiError,
    BatchAnswer,
    BatchResultLine,
    FaultSummary,
    FileAnswer,
    RequestCounts,
    read,
    read_completion,
    read_list,
)
from genie.contracts.batch import BatchState
from genie.errors import AnswerMismatch, GenieError, JobCancelled, JobFailed, JobTimeout
from genie.sdk.chat import CHAT_PATH, AskOptions, chat_body, check
from genie.sdk.files import content, upload
from genie.sdk.methods import C, Cloud, OnCloud, items_verb, self_verb, verb
from genie.sdk.progress import bar
from genie.sdk.requests import (
    Items,
    LocalWork,
    ReadLines,
    Steps,
    get,
    item_path,
    page,
    post,
)
from genie.sdk.responses import error_from_body, error_of
from genie.sdk.results import Result, result_from_completion
from genie.sdk.retries import PollBackoff
from genie.sdk.schemas import Schema, response_format

OF_THE_WHOLE = ("endpoint", "idempotency_key", "metadata", "timeout", "window")
"""Options of the batch, not of its lines."""


class BatchOptions(AskOptions, total=False):
    """Options of a batch; each is optional."""

    window: str
    """How long it may take: up to 24h, like 1h or 30m."""
    endpoint: str
    """The endpoint of a file's lines; chat completions by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """The result of one request of a batch, or its error.

    >>> (line,) = client.batch({"greeting": "Say hello."}).results()
    >>> line.custom_id, line.result.model, line.error
    ('greeting', 'echo:small', None)
    """

    custom_id: str
    result: Result | None = None
    error: GenieError | None = None

    @property
    def text(self) -> str:
        """The answer; raises the request's error if there is none."""
        if self.result is None:
            raise self.error or JobFailed("this request has no answer; submit it again")
        return self.result.text


def lines(
    requests: Mapping[str, str] | Iterable[str],
    options: BatchOptions,
    schema: Schema | None = None,
) -> Iterator[dict[str, object]]:
    """The lines of a batch's input; unnamed prompts are numbered from 1.

    >>> [line["custom_id"] for line in lines(["a", "b"], {})]
    ['1', '2']
    """
    asked = {name: one for name, one in options.items() if name not in OF_THE_WHOLE}
    head = {"method": "POST", "url": CHAT_PATH}
    named = requests.items() if isinstance(requests, Mapping) else None
    for name, prompt in named or enumerate(requests, 1):
        body = chat_body(prompt, cast(AskOptions, asked), mode="sync")
        if schema is not None:
            body["response_format"] = response_format(schema)
        yield {"custom_id": str(name), **head, "body": body}


def result_of(line: str, schema: Schema | None = None) -> BatchResult:
    """A line of a result file; an answer that is not of the schema is its error."""
    row = read(BatchResultLine, line)
    if row.response is None:
        why = row.error or FaultSummary(message="this request was not run")
        trouble = ApiError(message=why.message, code=why.code or None)
        return BatchResult(
            custom_id=row.custom_id, error=error_from_body(trouble, JobCancelled)
        )
    body = bytes(row.response.body)
    if row.response.status_code >= 400:
        headers = {"x-request-id": row.response.request_id or ""}
        error = error_of(row.response.status_code, headers, body)
        return BatchResult(custom_id=row.custom_id, error=error)
    try:
        answer = result_from_completion(read_completion(body), schema=schema)
    except AnswerMismatch as error:
        return BatchResult(custom_id=row.custom_id, error=error)
    return BatchResult(custom_id=row.custom_id, result=answer)


LONGEST_PAUSE_S = 5.0
PATH = "/v1/batches"

BatchRequests = str | os.PathLike[str] | Mapping[str, str] | Iterable[str]
"""The path of a file, prompts by custom_id, or prompts."""


class BatchVerbs(OnCloud[C]):
    """The verbs of a batch; see `Batch`."""

    def __init__(
        self, cloud: C, details: BatchAnswer, schema: Schema | None = None
    ) -> None:
        super().__init__(cloud)
        self.id = details.id
        self.details = details
        self._schema = schema

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, status={self.status.value!r})"

    @property
    def status(self) -> BatchState:
        """The last known state, without asking again."""
        return self.details.status

    @property
    def counts(self) -> RequestCounts:
        """The number of requests and how they ended, as last known."""
        return self.details.request_counts

    @self_verb
    def refresh(self) -> Steps[Self]:
        """Ask the cloud for the batch's current state; returns this batch.

        >>> client.batch(["Say hello."]).wait().refresh().status.value
        'completed'
        """
        self.details = yield from fetch(self.id)
        return self

    @verb
    def done(self) -> Steps[bool]:
        """True when the batch has ended; asks the cloud unless that is known.

        >>> client.batch(["Say hello."]).wait().done()
        True
        """
        return (yield from self._has_ended())

    @self_verb
    def cancel(self) -> Steps[Self]:
        """Stop the batch; existing answers are kept. Returns this batch.

        >>> batch = client.batch(["Hello " * 500] * 200).cancel()
        >>> batch.wait().status.value
        'cancelled'
        """
        call = post(f"{item_path(PATH, self.id)}/cancel", safe=True)
        self.details = read(BatchAnswer, (yield call))
        return self

    @self_verb
    def wait(
        self, timeout: float | None = None, *, progress: bool | None = None
    ) -> Steps[Self]:
        """Wait until the batch has ended, at most ``timeout`` seconds.

        Raises `JobTimeout` (code ``wait_timeout``) when it takes longer; the batch
        goes on. On a terminal a bar shows the progress unless ``progress`` is
        False.

        >>> client.batch(["Say hello."]).wait().counts.completed
        1
        """
        yield from self._end(timeout, progress)
        return self

    @items_verb
    def results(self, *, progress: bool | None = None) -> Items[BatchResult]:
        """Yields every request with its answer or error.

        Waits until the batch has ended. Raises `JobFailed` when the input was wrong.

        >>> batch = client.batch({"greeting": "Say hello."})
        >>> [(line.custom_id, line.text) for line in batch.results()]
        [('greeting', 'Say hello.')]
        """
        yield from self._end(None, progress)
        take = partial(result_of, schema=self._schema)
        for file_id in self._files():
            yield ReadLines(call=content(file_id), take=take)

    def _has_ended(self) -> Steps[bool]:
        if not self.status.is_terminal:
            self.details = yield from fetch(self.id)
        return self.status.is_terminal

    def _end(self, timeout: float | None, progress: bool | None) -> Steps[None]:
        def look() -> Steps[bool]:
            has_ended = yield from self._has_ended()
            counts = self.counts
            shown.at(counts.completed + counts.failed, counts.total or None)
            return has_ended

        wait = PollBackoff(self._cloud.now, timeout, LONGEST_PAUSE_S)
        late = partial(self._outlasted, timeout or 0.0)
        with bar("requests", None, progress) as shown:
            yield from wait.until(look, late)

    def _files(self) -> tuple[str, ...]:
        """The ids of its result files; raises `JobFailed` when the input was wrong."""
        if self.status is BatchState.FAILED:
            raise JobFailed(_why(self.details), code="batch_failed")
        made = (self.details.output_file_id, self.details.error_file_id)
        return tuple(file_id for file_id in made if file_id is not None)

    def _outlasted(self, timeout: float) -> JobTimeout:
        return JobTimeout(
            f"{self.id} is still {self.status.value} after {timeout:g} s and "
            "goes on; wait again with wait(), or stop it with cancel()",
            code="wait_timeout",
        )


class Batch(BatchVerbs[Cloud]):
    """A submitted batch. ``status`` is the last known state; `refresh` asks again.

    >>> batch = client.batch(["Say hello.", "Say goodbye."], window="1h")
    >>> batch.wait().counts
    RequestCounts(total=2, completed=2, failed=0)
    """


BatchT = TypeVar("BatchT", bound=BatchVerbs[Any])


class BatchesVerbs(OnCloud[C], Generic[C, BatchT]):
    """The verbs of the batches of an org; see `Batches`."""

    _batch: type[BatchT]

    @verb
    def submit(
        self,
        requests: BatchRequests,
        *,
        schema: Schema | None = None,
        **options: Unpack[BatchOptions],
    ) -> Steps[BatchT]:
        """Run many requests at low priority, on spare capacity.

        ``requests`` are prompts, prompts by custom_id, or the path of a file with lines
        ``{custom_id, method, url, body}``. Persona, model and the other options of a
        question, and ``schema``, apply to prompts; a file sets them line by line. With
        a ``schema`` each answer is parsed; one that does not match is the error of its
        line.

        >>> batch = client.batches.submit(["Say hello.", "Say goodbye."])
        >>> for line in batch.results():
        ...     print(line.custom_id, line.text)
        1 Say hello.
        2 Say goodbye.
        """
        made = yield from submit(requests, options, schema)
        return self._batch(self._cloud, made, schema)

    @verb
    def get(self, batch_id: str) -> Steps[BatchT]:
        """The batch with this id; raises `NotFound`.

        >>> made = client.batches.submit(["Say hello."])
        >>> client.batches.get(made.id).wait().counts.total
        1
        """
        return self._batch(self._cloud, (yield from fetch(batch_id)))

    @verb
    def list(
        self, *, limit: int = 20, after: str | None = None
    ) -> Steps[tuple[BatchT, ...]]:
        """One page of your org's batches, newest first.

        >>> made = client.batches.submit(["Say hello."])
        >>> client.batches.list(limit=1)[0].id == made.id
        True
        """
        found = read_list(BatchAnswer, (yield get(PATH, page(limit, after))))
        return tuple(self._batch(self._cloud, details) for details in found)


class Batches(BatchesVerbs[Cloud, Batch]):
    """The batches of your org, as ``client.batches``.

    >>> made = client.batches.submit(["Say hello."])
    >>> [batch.id == made.id for batch in client.batches.list(limit=1)]
    [True]
    """

    _batch = Batch


def submit(
    requests: BatchRequests, options: BatchOptions, schema: Schema | None = None
) -> Steps[BatchAnswer]:
    """Upload the requests and run them."""
    check(options, BatchOptions)
    uploaded = yield from _upload(requests, options, schema)
    body: dict[str, object] = {
        "input_file_id": uploaded.id,
        "endpoint": options.get("endpoint") or CHAT_PATH,
        "completion_window": options.get("window") or "24h",
    }
    if (metadata := options.get("metadata")) is not None:
        body["metadata"] = dict(metadata)
    key = options.get("idempotency_key") or str(uuid.uuid4())
    return read(BatchAnswer, (yield post(PATH, body, key=key)))


def fetch(batch_id: str) -> Steps[BatchAnswer]:
    """A batch's current state."""
    return read(BatchAnswer, (yield get(item_path(PATH, batch_id))))


def _upload(
    requests: BatchRequests, options: BatchOptions, schema: Schema | None
) -> Steps[FileAnswer]:
    if isinstance(requests, str | os.PathLike):
        if schema is not None:
            raise TypeError(
                "schema is for prompts; a file sets response_format in each line"
            )
        return (yield from upload(requests))
    with tempfile.TemporaryDirectory(prefix="genie-") as folder:
        path = Path(folder) / "requests.jsonl"
        made = lines(requests, options, schema)
        yield LocalWork(do=lambda: _write(path, made))
        return (yield from upload(path))


def _write(path: Path, made: Iterable[dict[str, object]]) -> None:
    with path.open("wb") as out:
        for line in made:
            out.write(msgspec.json.encode(line) + b"\n")


def _why(details: BatchAnswer) -> str:
    found = details.errors.data if details.errors else ()
    shown = "; ".join(
        f"line {one.line}: {one.message}" if one.line else one.message
        for one in found[:3]
    )
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return f"the input of {details.id} cannot be run: {shown or 'unknown'}{more}"
