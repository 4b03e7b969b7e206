"""Dead letters for admins: look, replay, discard."""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field

from cloud_app.api.json import of_record
from cloud_app.bus import DeadLetter
from cloud_app.jobs import dead_letters
from cloud_app.jobs.job_json import job_json
from cloud_app.web.request import blueprint, context, key, require_admin, tell
from genie.api_types import (
    DeadLetterAnswer,
    DeadLetterList,
    DeadLetterSummary,
    DiscardedDeadLetter,
    JobAnswer,
)
from genie.contracts import codec
from genie.errors import CodecError

L = TypeVar("L", bound=DeadLetterSummary)

api = blueprint("dead_letters", "admin", prefix="/v1/dead-letters", guard=require_admin)


class DeadLetterPath(BaseModel):
    """Which letter: the id of its job, or its own."""

    letter_id: str = Field(max_length=255)


class DeadLetterQuery(BaseModel):
    """How much of it to show."""

    text: bool = Field(False, description="With the prompt; that is written down.")


@api.get("")
def list_letters() -> DeadLetterList:
    """Messages of this org that nobody could serve, oldest first, without text."""
    found = dead_letters.find(context(), key().org)
    return DeadLetterList(data=tuple(_letter(DeadLetterSummary, one) for one in found))


@api.get("/<letter_id>")
def get_letter(
    path: DeadLetterPath, query: DeadLetterQuery
) -> DeadLetterSummary | DeadLetterAnswer:
    """One dead letter; its text only with text=true, which is audited."""
    letter = dead_letters.get(context(), key(), path.letter_id, shows_text=query.text)
    if not query.text:
        return _letter(DeadLetterSummary, letter)
    return _letter(DeadLetterAnswer, letter, content=_text(letter))


@api.post("/<letter_id>/replay")
def replay_letter(path: DeadLetterPath) -> tuple[JobAnswer, Literal[202]]:
    """Put its job back into its queue; the answer is the job, queued again."""
    job = dead_letters.replay(context(), key(), path.letter_id)
    tell(job)
    return job_json(job), 202


@api.delete("/<letter_id>")
def discard_letter(path: DeadLetterPath) -> DiscardedDeadLetter:
    """Remove a dead letter for good; its job stays failed."""
    dead_letters.discard(context(), key(), path.letter_id)
    return DiscardedDeadLetter(id=path.letter_id)


def _letter(kind: type[L], letter: DeadLetter, **given: object) -> L:
    return of_record(kind, letter, size_bytes=len(letter.body), **given)


def _text(letter: DeadLetter) -> dict[str, Any] | str:
    """What it asks, as JSON; of what is no task, what can be read of it."""
    try:
        task = letter.task()
    except CodecError:
        return letter.body.decode(errors="replace")
    asked: dict[str, Any] = codec.shown(task)
    return {name: asked[name] for name in ("messages", "prompt", "sampling")}
