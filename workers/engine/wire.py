"""Defines what travels on the pipe between a worker and its engine's child process.

One frame is a batch: everything of one step, encoded once.
"""

from collections.abc import Iterable

import msgspec

from genie.contracts.base import Contract, Count
from genie.contracts.fleet import LoadStage
from genie.contracts.inference import Fault
from workers.engine.protocol import (
    EngineRequest,
    EngineStats,
    Finish,
    Load,
    Piece,
    failed,
)


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


class LoadFailureReport(
    Contract, frozen=True, kw_only=True, tag_field="kind", tag="failed"
):
    """The model could not be loaded."""

    fault: Fault


class _Named(Contract, frozen=True, kw_only=True):
    """A request of which only the id is read."""

    id: str


class _Unreadable(Contract, frozen=True, kw_only=True):
    request: _Named


Command = Load | Submit | Cancel | Stop
ChildReport = (
    LoadProgress | EngineReady | LoadFailureReport | Piece | Finish | EngineStats
)

_encoder = msgspec.msgpack.Encoder()
_commands = msgspec.msgpack.Decoder(tuple[Command, ...])
_ids = msgspec.msgpack.Decoder(tuple[_Unreadable, ...])
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
        submitted = _ids.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    fault = Fault(code="invalid_request", message=f"the request is malformed: {why}")
    return [failed(one.request.id, fault) for one in submitted]


def decode_reports(frame: bytes) -> tuple[ChildReport, ...]:
    """What the child reported; raises msgspec.ValidationError naming a wrong field."""
    return _reports.decode(frame)
