"""Questions, vectors, and where a question would go."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from genie.api_types import (
    Completion,
    DecisionAnswer,
    EmbeddingsAnswer,
    JobAnswer,
    ModelAnswer,
    PersonaAnswer,
    RouteAnswer,
    read,
    read_list,
)
from genie.sdk.chat import DEFAULT_PERSONA, AskOptions, chat_body
from genie.sdk.embeddings import Embeddings, embeddings
from genie.sdk.requests import READ_S, Call, Steps, get, idempotent_post, post
from genie.sdk.results import Result, result_from_completion
from genie.sdk.schemas import Schema, response_format

ASK_PATH = "/v1/chat/completions"
EMBED_PERSONA = "embed"

GRACE_S = 10.0
"""How much longer we listen than the job may take, to hear why it did not end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, how, and the shape its answer is to have."""

    prompt: str | None
    options: AskOptions
    schema: Schema | None = None

    def call(self, mode: str, deadline_s: float | None, listen_s: float) -> Call:
        """The request that asks it."""
        chat = chat_body(self.prompt, self.options, mode=mode)
        if self.schema is not None:
            chat["response_format"] = response_format(self.schema)
        if deadline_s is not None:
            chat["deadline_s"] = deadline_s
        key = self.options.get("idempotency_key") or str(uuid.uuid4())
        return idempotent_post(ASK_PATH, chat, key, timeout_s=listen_s)

    def watched(self, mode: str, patience_s: float) -> Call:
        """The same for an asker who waits: the job ends when the waiting does."""
        timeout = self.options.get("timeout") or patience_s
        return self.call(mode, timeout, timeout + GRACE_S)


def ask(question: Question, patience_s: float) -> Steps[Result]:
    """The answer, waited for."""
    said = yield question.watched("sync", patience_s)
    return result_from_completion(read(Completion, said), schema=question.schema)


def submit(question: Question) -> Steps[JobAnswer]:
    """The question as a job."""
    return read(JobAnswer, (yield question.call("async", None, READ_S)))


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
    prompt: str | None, persona: str | None, model: str | None
) -> Steps[RouteAnswer]:
    """Where such a question would go, and why."""
    wanted = {"persona": persona, "model": model, "input": prompt}
    if not persona and not model:
        wanted["persona"] = DEFAULT_PERSONA
    given = {name: value for name, value in wanted.items() if value}
    return read(DecisionAnswer, (yield post("/v1/route", given, safe=True))).route


def models() -> Steps[tuple[ModelAnswer, ...]]:
    """The catalog's models."""
    return read_list(ModelAnswer, (yield get("/v1/models")))


def personas() -> Steps[tuple[PersonaAnswer, ...]]:
    """The personas and their ladders."""
    return read_list(PersonaAnswer, (yield get("/v1/personas")))
