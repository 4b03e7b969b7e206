"""The child process: loads one model, then serves it until told to stop.

Run as ``python -m workers.engine.child.main FD PARENT_PID [ENGINE]`` by
`workers.engine.parent.process`; ENGINE is whose imports to begin before any load.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from genie.contracts.fleet import LoadStage
from genie.contracts.inference import Fault
from genie.contracts.model import ModelFile
from workers.engine import registry, wire
from workers.engine.child.backend import (
    Backend,
    EngineLimits,
    EngineLoop,
    TakeCommands,
)
from workers.engine.errors import LoadFailed
from workers.engine.pipe import Pipe
from workers.engine.protocol import Load
from workers.files import manifest as store

PR_SET_PDEATHSIG = 1
"""The prctl option of Linux that names the signal a child gets at its parent's end."""

OOM_SCORE = 500
"""Of 1000: chosen before anything that has not asked for it."""

SendReports = Callable[[Sequence[wire.ChildReport]], None]


def main(arguments: list[str]) -> None:
    """Serve the pipe whose file descriptor and parent are given."""
    descriptor, parent = (int(argument) for argument in arguments[:2])
    os.set_inheritable(descriptor, False)
    die_with_parent(parent)
    raise_oom_score()
    for argument in arguments[2:]:
        warm_up(argument)
    pipe = Pipe(socket.socket(fileno=descriptor))
    send = _sender(pipe)
    load = _first(pipe)
    backend = _ready(load, send)
    if backend is not None:
        EngineLoop(backend, _taker(pipe, send), send).run()
    # Straight to the end: what libraries and their threads would tidy up ends with us.
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


def warm_up(engine: str) -> None:
    """Import all that a model of this engine needs."""
    prepare = registry.engine_named(engine).warm_up
    if prepare is not None:
        prepare()


def _first(pipe: Pipe) -> Load:
    try:
        load = wire.decode_commands(pipe.frame())[0]
    except (EOFError, OSError):
        # Nobody wanted this child in the end.
        os._exit(0)
    if not isinstance(load, Load):
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


def _taker(pipe: Pipe, send: SendReports) -> TakeCommands:
    """What the parent asks, read between two steps: a thread of its own for that would
    want the interpreter in the middle of one."""

    def take(timeout: float) -> list[wire.Command]:
        try:
            if timeout > 0:
                pipe.wait(timeout)
            frames = pipe.frames()
        except (EOFError, OSError):
            os._exit(0)
        return [command for frame in frames for command in read(frame)]

    def read(frame: bytes) -> Sequence[wire.Command]:
        try:
            return wire.decode_commands(frame)
        except msgspec.DecodeError as error:
            # A request nobody can read ends with the reason; the others go on.
            send(wire.failures_of_unreadable(frame, str(error)))
            return ()

    return take


def _ready(load: Load, send: SendReports) -> Backend | None:
    def progress(share: float, stage: LoadStage) -> None:
        send([wire.LoadProgress(share=share, stage=stage)])

    try:
        engine = registry.engine_named(load.spec.engine)
        files = verified(load)
        if load.path is not None:
            progress(0.0, LoadStage.VERIFYING)
        backend, identity = engine.load(load, EngineLimits.of(load), files, progress)
    except LoadFailed as failure:
        send([wire.LoadFailureReport(fault=failure.fault)])
        return None
    # The border of one load: whatever a library raises is a failed load, told to the
    # parent, which knows what to do about it.
    except Exception as error:  # noqa: BLE001
        reason = f"{type(error).__name__}: {error}"[:500]
        message = f"{load.spec.id} could not be loaded: {reason}"
        fault = Fault(code="load_failed", message=message)
        send([wire.LoadFailureReport(fault=fault)])
        return None
    send([wire.EngineReady(fingerprint=identity, peak_bytes=backend.peak_bytes())])
    return backend


def verified(load: Load) -> registry.VerifiedFiles:
    """Hold a model's files against their digests from now on, in the background, while
    the engine imports what will read them."""
    if load.path is None:
        return lambda: ()
    pool = ThreadPoolExecutor(1, thread_name_prefix="verify")
    found = pool.submit(store.verify, Path(load.path), load.spec)
    pool.shutdown(wait=False)

    def files() -> tuple[ModelFile, ...]:
        try:
            return found.result()
        except store.PullFailed as failure:
            raise LoadFailed(failure.fault) from failure

    return files


if __name__ == "__main__":
    main(sys.argv[1:])
