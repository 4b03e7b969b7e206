"""The lines of a batch: requests on their way in, results on their way out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import msgspec

from genie.api_types import ApiError, ApiObject, Completion, read
from genie.errors import AnswerMismatch, GenieError, JobCancelled, JobFailed
from genie.sdk.chat import AskOptions, chat_body
from genie.sdk.responses import error_from_body, error_of
from genie.sdk.results import Result, result_from_completion
from genie.sdk.schemas import Schema, response_format

CHAT = "/v1/chat/completions"

OF_THE_WHOLE = ("endpoint", "idempotency_key", "metadata", "timeout", "window")
"""Options that belong to the batch, not to each of its lines."""


class BatchOptions(AskOptions, total=False):
    """How to run a batch; each is optional."""

    window: str
    """How long it may take: 24h, or less, like 1h or 30m."""
    endpoint: str
    """What the lines of a file are for; chat completions unless given."""


class _LineResponse(ApiObject, frozen=True):
    status_code: int
    body: msgspec.Raw
    request_id: str | None = None


class _ResultLine(ApiObject, frozen=True):
    custom_id: str
    response: _LineResponse | None = None
    error: ApiError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What one request of a batch came to: a result, or the error instead of it.

    >>> (line,) = client.batch({"greeting": "Say hello."}).results()
    >>> line.custom_id, line.result.model, line.error
    ('greeting', 'echo:small', None)
    """

    custom_id: str
    result: Result | None = None
    error: GenieError | None = None

    @property
    def text(self) -> str:
        """The answer; raises the error when there is none."""
        if self.result is None:
            raise self.error or JobFailed("this request has no answer; submit it again")
        return self.result.text


def lines(
    requests: Mapping[str, str] | Iterable[str],
    options: BatchOptions,
    schema: Schema | None = None,
) -> Iterator[dict[str, object]]:
    """The lines of a batch's input; prompts without a name are numbered from 1.

    >>> [line["custom_id"] for line in lines(["a", "b"], {})]
    ['1', '2']
    """
    named = requests.items() if isinstance(requests, Mapping) else _numbered(requests)
    asked = {name: one for name, one in options.items() if name not in OF_THE_WHOLE}
    for custom_id, prompt in named:
        body = chat_body(prompt, cast(AskOptions, asked), mode="sync")
        if schema is not None:
            body["response_format"] = response_format(schema)
        yield {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def result_of(line: str, schema: Schema | None = None) -> BatchResult:
    """A line of a result file; an answer that is not of the schema is its error."""
    row = read(_ResultLine, line)
    if row.response is None:
        trouble = row.error or ApiError(message="this request was not run")
        return BatchResult(
            custom_id=row.custom_id, error=error_from_body(trouble, JobCancelled)
        )
    body = bytes(row.response.body)
    if row.response.status_code >= 400:
        headers = {"x-request-id": row.response.request_id or ""}
        error = error_of(row.response.status_code, headers, body)
        return BatchResult(custom_id=row.custom_id, error=error)
    try:
        answer = result_from_completion(read(Completion, body), schema=schema)
    except AnswerMismatch as error:
        return BatchResult(custom_id=row.custom_id, error=error)
    return BatchResult(custom_id=row.custom_id, result=answer)


def _numbered(prompts: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((str(number), prompt) for number, prompt in enumerate(prompts, 1))
