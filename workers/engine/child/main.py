"""The child process: loads one model, then serves it until told to stop.

Run as ``python -m workers.engine.child.main FD PARENT_PID [warm]`` by
`workers.engine.parent.spawn`.
"""

import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from genie.contracts.fleet import LoadStage
from genie.contracts.inference import Fault
from genie.contracts.model import Capability
from workers.engine import wire
from workers.engine.child.backend import Backend, EngineLimits
from workers.engine.child.loop import EngineLoop
from workers.engine.echo import (
    EchoBackend,
    echo_fingerprint,
    pretend_to_load,
    read_options,
)
from workers.engine.errors import LoadFailed
from workers.engine.parent.spawn import WARM
from workers.engine.pipe import Pipe
from workers.engine.protocol import OnLoadProgress
from workers.engine.verification import Verification

PR_SET_PDEATHSIG = 1
"""The prctl option of Linux that names the signal a child gets at its parent's end."""

OOM_SCORE = 500
"""Of 1000: chosen before anything that has not asked for it."""

BackendAndIdentity = tuple[Backend, str]
SendReports = Callable[[Sequence[wire.ChildReport]], None]


def main(arguments: list[str]) -> None:
    """Serve the pipe whose file descriptor and parent are given."""
    descriptor, parent = (int(argument) for argument in arguments[:2])
    os.set_inheritable(descriptor, False)
    die_with_parent(parent)
    raise_oom_score()
    pipe = Pipe.of(descriptor)
    send = _sender(pipe)
    if WARM in arguments[2:]:
        warm_up(send)
    load = _first(pipe)
    backend = _ready(load, send)
    if backend is not None:
        EngineLoop(backend, PipeCommands(pipe, send), send).run()
    # Straight to the end: what torch and its threads would tidy up ends with us.
    pipe.close()
    os._exit(0)


def die_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the line above took effect.
    if os.getppid() != parent:
        os._exit(1)


def raise_oom_score() -> None:
    """Tell the kernel whom to end when memory runs out: a model can be loaded again,
    and what serves it, or the owner's own work, must not be chosen instead."""
    # Only Linux has the file; raising one's own score needs no rights.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")


def warm_up(send: SendReports) -> None:
    """Import all that a model needs, and say what that takes."""
    from workers.engine.torch import loading  # noqa: F401 - importing it is the work

    # Linux counts the peak in KiB.
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    send([wire.ChildWarm(peak_bytes=taken)])


def _first(pipe: Pipe) -> wire.Load:
    try:
        load = wire.decode_commands(pipe.frame() or b"")[0]
    except (EOFError, OSError):
        # Nobody wanted this child in the end.
        os._exit(0)
    if not isinstance(load, wire.Load):
        raise SystemExit("the first message must be a load")
    return load


def _sender(pipe: Pipe) -> SendReports:
    def send(batch: Sequence[wire.ChildReport]) -> None:
        try:
            pipe.send(wire.encode(batch))
        except OSError:
            # The parent is gone: there is nobody left to serve.
            os._exit(0)

    return send


class PipeCommands:
    """What the parent asks, read between two steps: a thread of its own for that would
    want the interpreter in the middle of one."""

    def __init__(self, pipe: Pipe, send: SendReports) -> None:
        self._pipe, self._send = pipe, send

    def take(self, timeout: float) -> list[wire.Command]:
        """All commands so far; waits up to ``timeout`` seconds for the first."""
        try:
            if timeout > 0:
                self._pipe.wait(timeout)
            frames = self._pipe.frames()
        except (EOFError, OSError):
            os._exit(0)
        return [command for frame in frames for command in self._read(frame)]

    def _read(self, frame: bytes) -> Sequence[wire.Command]:
        try:
            return wire.decode_commands(frame)
        except msgspec.DecodeError as error:
            # A request nobody can read ends with the reason; the others go on.
            self._send(wire.failures_of_unreadable(frame, str(error)))
            return ()


def _ready(load: wire.Load, send: SendReports) -> Backend | None:
    def progress(share: float, stage: LoadStage) -> None:
        send([wire.LoadProgress(share=share, stage=stage)])

    try:
        backend, identity = _build(load, progress)
    except LoadFailed as failure:
        send([wire.LoadFailureReport(fault=failure.fault)])
        return None
    # The border of one load: whatever a library raises is a failed load, told to the
    # parent, which knows what to do about it.
    except Exception as error:  # noqa: BLE001
        send([wire.LoadFailureReport(fault=_unexpected(load, error))])
        return None
    send([wire.EngineReady(fingerprint=identity, peak_bytes=backend.peak_bytes())])
    return backend


def _build(load: wire.Load, progress: OnLoadProgress) -> BackendAndIdentity:
    if load.spec.engine == "echo":
        options = read_options(load.spec.source)
        pretend_to_load(options)
        identity = echo_fingerprint(load.spec, load.quant)
        return EchoBackend(engine_limits(load), options), identity
    # Files are digested while torch is imported: here, in this process only, after
    # the pipe is served.
    verification = Verification(load)
    progress(0.0, LoadStage.VERIFYING)
    if Capability.EMBED in load.spec.capabilities:
        from workers.engine.torch import embedding

        freeze_imports()
        return embedding.load(
            load,
            engine_limits(load),
            progress,
            clock=time.monotonic,
            verification=verification,
        )
    from workers.engine.torch import loading

    freeze_imports()
    return loading.load(
        load,
        engine_limits(load),
        progress,
        clock=time.monotonic,
        verification=verification,
    )


def freeze_imports() -> None:
    """Never look through what was imported for garbage: it stays, and a step that has
    to wait for that is a tenth of a second late."""
    gc.freeze()


def engine_limits(load: wire.Load) -> EngineLimits:
    """What the parent allowed this engine to take on."""
    return EngineLimits(
        model=load.spec.id,
        slots=load.slots,
        context=load.context,
        waiting=load.waiting,
        budget=load.budget,
    )


def _unexpected(load: wire.Load, error: Exception) -> Fault:
    reason = f"{type(error).__name__}: {error}"[:500]
    message = f"{load.spec.id} could not be loaded: {reason}"
    return Fault(code="load_failed", message=message)


if __name__ == "__main__":
    main(sys.argv[1:])
