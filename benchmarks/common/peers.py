"""What a fleet is compared with, each in an environment of its own.

`make bench-peers` builds them from the requirement files in ``benchmarks/peers``.
"""

import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common.checkout import THIS
from benchmarks.common.loader import HOST, Target
from benchmarks.common.processes import Part
from benchmarks.common.sides import Side
from fixtures.ports import free_port
from fixtures.process import ServerProcess

FILES = THIS / "benchmarks" / "peers"
ENVIRONMENTS = THIS / ".venv" / "peers"
START_S = 90.0
QUIET = ("--loglevel", "WARNING")


class PeerMissing(RuntimeError):
    """The environment of a peer was not built."""


@contextmanager
def flask_celery(broker_url: str, infra: Mapping[str, Part]) -> Iterator[Side]:
    """A Flask view that waits for a Celery task: 64 threads, results by rpc."""
    port, environ = free_port(), {"PEER_BROKER_URL": broker_url}
    serve = ("gunicorn", "-w", "1", "--threads", "64", "-b", f"{HOST}:{port}")
    work = ("celery", "-A", "flask_celery", "worker", *QUIET)
    with (
        _program("celery", *serve, "flask_celery:web", **environ) as web,
        _program("celery", *work, **environ) as worker,
    ):
        _wait(web, port)
        yield Side(
            name="flask_celery",
            own=lambda: {"web": Part((web.pid,)), "worker": Part((worker.pid,))},
            infra={"broker": infra["broker"]},
            whole=Target.post(
                port, "/echo", {"text": "one two three"}, expect=b"one two three"
            ),
        )


@contextmanager
def litellm() -> Iterator[Side]:
    """LiteLLM's proxy with a mock answer: one process, no database."""
    port = free_port()
    serve = ("litellm", "--config", "litellm.yaml", "--host", HOST, "--port", str(port))
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    chat = {"model": "chat", "messages": [{"role": "user", "content": "one two three"}]}
    with _program("litellm", *serve, **environ) as proxy:
        _wait(proxy, port)
        yield Side(
            name="litellm",
            own=lambda: {"proxy": Part((proxy.pid,))},
            whole=Target.post(
                port,
                "/v1/chat/completions",
                chat,
                key="sk-peer",
                expect=b'"content":"one"',
            ),
        )


@contextmanager
def uvicorn(paces: Mapping[str, float]) -> Iterator[Side]:
    """A plain ASGI server in one process, with tokens at these paces by model."""
    port = free_port()
    serve = ("uvicorn", "sse_server:app", "--host", HOST, "--port", str(port))
    pace = ",".join(f"{name}={ms}" for name, ms in paces.items())
    quiet = ("--no-access-log", "--log-level", "warning", "--backlog", "4096")
    with _program("uvicorn", *serve, *quiet, PACES=pace) as server:
        _wait(server, port)

        def chat(persona: str, tokens: int, stream: bool) -> Target:
            document = {
                "model": persona,
                "messages": [{"role": "user", "content": "one two three"}],
                "max_tokens": tokens,
                "stream": stream,
            }
            expect = b"data: [DONE]" if stream else b'"content": "one'
            path = "/v1/chat/completions"
            return Target.post(port, path, document, expect=expect)

        yield Side(
            name="uvicorn",
            own=lambda: {"server": Part((server.pid,))},
            whole=chat(next(iter(paces)), 1, False),
            stream=lambda persona, tokens: chat(persona, tokens, True),
        )


@contextmanager
def _program(
    environment: str, command: str, *arguments: str, **environ: str
) -> Iterator[ServerProcess]:
    bin_ = ENVIRONMENTS / environment / "bin"
    if not (bin_ / command).exists():
        raise PeerMissing(f"{command} is not in {bin_}; run: make bench-peers")
    with tempfile.TemporaryDirectory(prefix="genie-bench-peer-") as folder:
        process = ServerProcess(
            [str(bin_ / command), *_absolute(arguments)],
            folder=Path(folder),
            environ={
                "PATH": f"{bin_}:{os.environ.get('PATH', os.defpath)}",
                "PYTHONPATH": str(FILES),
                "HOME": folder,
                "TMPDIR": folder,
                "LANG": "C.UTF-8",
                **environ,
            },
            name=command,
        )
        try:
            yield process
        finally:
            process.end(signal.SIGKILL, timeout_s=10)


def _absolute(arguments: tuple[str, ...]) -> list[str]:
    return [str(FILES / one) if one.endswith(".yaml") else one for one in arguments]


def _wait(process: ServerProcess, port: int) -> None:
    """Return when the port takes connections."""

    def is_open() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, port)) == 0

    process.wait_until(is_open, START_S)
    time.sleep(1.0)  # a server listens a moment before its application is loaded
