"""A task as a Celery protocol 2 message: JSON, and no text in any header."""

import msgspec

from genie import topology
from genie.contracts import codec
from genie.contracts.base import Contract
from genie.contracts.inference import InferenceTask

CONTENT_TYPE = "application/json"

_HEAD, _TAIL = b'[[],{"task":', b'},{"callbacks":null,"errbacks":null}]'


class _Arguments(Contract, frozen=True, kw_only=True):
    task: InferenceTask


_body: msgspec.json.Decoder[tuple[list[None], _Arguments, dict[str, None]]] = (
    msgspec.json.Decoder(tuple[list[None], _Arguments, dict[str, None]])
)


def pack(task: InferenceTask) -> bytes:
    """Body of the message; raises `genie.errors.TooLarge` over the size limit."""
    return _HEAD + codec.encode(task, limit_bytes=topology.MAX_MESSAGE_BYTES) + _TAIL


def unpack(body: bytes | str) -> InferenceTask:
    """The task of a message body; raises `CodecError` naming the field."""
    return codec.read(_body, "task", body)[1].task


def headers(task: InferenceTask) -> dict[str, str | int | None]:
    """Celery's headers plus ours; ``argsrepr`` is ``-`` so that no prompt is logged."""
    return {
        "lang": "py",
        "task": topology.TASK_INFERENCE,
        "id": task.job_id,
        "root_id": task.job_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "argsrepr": "-",
        "kwargsrepr": "-",
        "origin": "genie",
        "persona": task.persona,
        "org": task.org,
        "model": task.model,
        "fingerprint": task.fingerprint,
        "class": task.work_class.value,
        "deadline": task.deadline_at.isoformat(),
        "attempt": task.publication,
        "locality": task.locality.value,
    }
