"""Defines what travels on the pipe between a worker and its engine's child process.

One frame is a batch: everything of one step, encoded once.
"""

from collections.abc import Iterable

import msgspec

from genie.contracts.base import Contract, Count
from genie.contracts.fleet import LoadStage
from genie.contracts.inference import Fault, FinishReason, Usage
from workers.engine.protocol import EngineRequest, EngineStats, Finish, Load, Piece

WARM = "warm:"
"""Begins the child's argument that names an engine to warm up before any `Load`."""


class Submit(Contract, frozen=True, kw_only=True, tag_field="kind", tag="submit"):
    """Start a request."""

    request: EngineRequest


class Cancel(Contract, frozen=True, kw_only=True, tag_field="kind", tag="cancel"):
    """Stop a request."""

    id: str


class Stop(Contract, frozen=True, kw_only=True, tag_field="kind", tag="stop"):
    """End the child; what runs is failed by the parent."""


class LoadProgress(
    Contract, frozen=True, kw_only=True, tag_field="kind", tag="progress"
):
    """How far loading has come, 0 to 1, and what comes next."""

    share: float
    stage: LoadStage


class EngineReady(Contract, frozen=True, kw_only=True, tag_field="kind", tag="ready"):
    """The model is loaded and passed its self-test."""

    fingerprint: str
    peak_bytes: Count


class ChildWarm(Contract, frozen=True, kw_only=True, tag_field="kind", tag="warm"):
    """The child has imported what a model needs and waits for its `Load`."""

    peak_bytes: Count


class LoadFailureReport(
    Contract, frozen=True, kw_only=True, tag_field="kind", tag="failed"
):
    """The model could not be loaded."""

    fault: Fault


Command = Load | Submit | Cancel | Stop
ChildReport = (
    ChildWarm
    | LoadProgress
    | EngineReady
    | LoadFailureReport
    | Piece
    | Finish
    | EngineStats
)

_encoder = msgspec.msgpack.Encoder()
_commands = msgspec.msgpack.Decoder(tuple[Command, ...])
_reports = msgspec.msgpack.Decoder(tuple[ChildReport, ...])


def encode(batch: Iterable[Command | ChildReport]) -> bytes:
    """One frame of the pipe."""
    return _encoder.encode(tuple(batch))


def decode_commands(frame: bytes) -> tuple[Command, ...]:
    """What the parent asked; raises msgspec.ValidationError naming a wrong field."""
    return _commands.decode(frame)


def failures_of_unreadable(frame: bytes, why: str) -> list[Finish]:
    """The ends of the requests in a frame that `decode_commands` cannot read."""
    try:
        commands = msgspec.msgpack.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    fault = Fault(code="invalid_request", message=f"the request is malformed: {why}")
    ids = (_request_id(command) for command in _items(commands))
    return [
        Finish(id=one, reason=FinishReason.ERROR, usage=Usage(), fault=fault)
        for one in ids
        if one is not None
    ]


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _request_id(command: object) -> str | None:
    request = command.get("request") if isinstance(command, dict) else None
    found = request.get("id") if isinstance(request, dict) else None
    return found if isinstance(found, str) else None


def decode_reports(frame: bytes) -> tuple[ChildReport, ...]:
    """What the child reported; raises msgspec.ValidationError naming a wrong field."""
    return _reports.decode(frame)
