"""A fleet from any checkout of this project, started as its own Procfile says.

The checkout may be another release than the one these benchmarks belong to. So nothing
of it is imported: its processes are started with the programs of its own ``.venv``, and
asked over HTTP and SQL.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from benchmarks.common.loader import HOST, Target
from benchmarks.common.processes import Part, Snapshot, command
from fixtures.ports import free_port
from fixtures.process import ServerProcess

THIS = Path(__file__).parents[2]
PLACES = 1024
"""Places of an echo model, by its catalog source."""

START_S = 120.0
SPARE_THREADS = 24
"""A release with a thread for each request keeps some for others."""

WIDEN = """
CREATE FUNCTION bench_places() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN NEW.slots := {places}; RETURN NEW; END $$;
CREATE TRIGGER bench_places BEFORE INSERT OR UPDATE ON placement
FOR EACH ROW EXECUTE FUNCTION bench_places();
UPDATE placement SET slots = {places};
"""

MODEL = """
[[models]]
id = "echo:{persona}"
family = "echo"
parameters = 1_000_000
license = "Apache-2.0"
source = "echo:?ms_per_token={ms}&slots={places}"
context_max = 2048
layers = 2
kv_heads = 1
head_dim = 16
engine = "echo"
quants = [{{ name = "none", dtype = "float32" }}]

[[personas]]
name = "{persona}"
tier = "lite"
ladder = ["echo:{persona}"]
standing = true
"""


def catalog(paces: Mapping[str, float]) -> str:
    """A catalog with an echo model for each persona, at so many ms a token."""
    return "".join(
        MODEL.format(persona=persona, ms=ms, places=PLACES)
        for persona, ms in paces.items()
    )


def procfile(text: str) -> dict[str, str]:
    """The command line of each process of a Procfile.

    >>> procfile("release: genie db upgrade\\nweb: A=1 serve 'app()'")["web"]
    "A=1 serve 'app()'"
    """
    lines = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): line.strip() for name, _, line in lines}


class CheckoutFleet:
    """Web, brain, beat and one worker of a checkout, on a broker and a database."""

    def __init__(
        self,
        tree: Path,
        *,
        name: str,
        broker_url: str,
        database_url: str,
        paces: Mapping[str, float],
    ) -> None:
        self.tree, self.name = tree.resolve(), name
        self.port = free_port()
        self.widened: list[str] = []
        """What had to be raised by hand for the load, in words."""
        self.carries = 0
        """How many requests at once web was started for; 0 is what it ships with."""
        self._temporary = tempfile.TemporaryDirectory(prefix=f"genie-bench-{name}-")
        self._folder = Path(self._temporary.name)
        self._database_url = database_url
        self._personas = tuple(paces)
        self._lines = procfile((self.tree / "Procfile").read_text())
        self._running: dict[str, ServerProcess] = {}
        self._key = ""
        self._engines: tuple[int, ...] = ()
        page = self._folder / "catalog.toml"
        page.write_text(catalog(paces))
        self._environ = {
            **_plain_environ(self.tree, self._folder),
            "GENIE_HOME": str(self._folder / "home"),
            "GENIE_BROKER_URL": broker_url,
            "GENIE_DATABASE_URL": database_url,
            "GENIE_SECRET_KEY": "only-for-benchmarks",
            "GENIE_PUBLIC_URL": self.url,
            "GENIE_CATALOG": str(page),
            "GENIE_LOG_LEVEL": "WARNING",
            "GENIE_URL": self.url,
            "GENIE_WORKER_NAME": "atlas",
            "GENIE_STATE_DIR": str(self._folder / "worker"),
            # Where web listens, for gunicorn and for whatever reads the usual PORT.
            "PORT": str(self.port),
            "GUNICORN_CMD_ARGS": f"--bind {HOST}:{self.port}",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where web answers."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Migrate, start everything; returns when every echo model has its places."""
        self._run(self._lines["release"])
        printed = self._run("genie db bootstrap --org acme")
        self._key = next(w for w in printed.split() if w.startswith("sk-genie-"))
        for process in ("web", "brain", "beat"):
            self._start(process)
        self._wait(self._is_up, "web answers /readyz")
        self._environ["GENIE_JOIN_TOKEN"] = self._call("/v1/join-tokens", {})["token"]
        self._start("worker")
        self._wait(lambda: bool(self._places()), "the echo models are ready")
        if self._places() < PLACES:
            self._widen()
        self._engines = self._find_engines()

    def restart_web(self, at_once: int) -> None:
        """Start web anew: what earlier loads left in its memory is gone.

        A release that had to be widened before is widened for so many requests.
        """
        if 0 < self.carries < at_once:
            self.widen_web(at_once)
            return
        self._end("web", signal.SIGTERM)
        self._start("web")
        self._wait(self._is_up, "web answers /readyz again")

    def widen_web(self, at_once: int) -> None:
        """Start web anew with a thread for each of so many requests; note it down."""
        self.carries, threads = at_once, at_once + SPARE_THREADS
        self._environ["GENIE_WEB_THREADS"] = str(threads)
        said = [one for one in self.widened if "GENIE_WEB_THREADS" not in one]
        self.widened = [*said, f"GENIE_WEB_THREADS={threads}"]
        self.restart_web(at_once)

    def parts(self) -> dict[str, Part]:
        """The fleet's own processes, by what they do."""
        pids = {name: process.pid for name, process in self._running.items()}
        return {
            "web": Part((pids["web"],)),
            "brain": Part((pids["brain"],)),
            "beat": Part((pids["beat"],)),
            "worker": Part((pids["worker"],), without=self._engines),
            "engine": Part(self._engines),
        }

    def chat(self, persona: str, tokens: int, *, stream: bool) -> Target:
        """A chat request of so many tokens."""
        document = {
            "model": persona,
            "messages": [{"role": "user", "content": "one two three"}],
            "max_tokens": tokens,
            "stream": stream,
        }
        expect = b"data: [DONE]" if stream else b'"content":"one'
        path = "/v1/chat/completions"
        return Target.post(self.port, path, document, key=self._key, expect=expect)

    def logs(self) -> str:
        """The last lines of every process, for the report of a failure."""
        pages = (f"== {name}\n{one.tail()}" for name, one in self._running.items())
        return "\n".join(pages)

    def close(self) -> None:
        """End every process and remove the folder."""
        for process in tuple(self._running)[::-1]:
            with contextlib.suppress(ProcessLookupError):
                self._end(process, signal.SIGKILL)
        self._temporary.cleanup()

    def _widen(self) -> None:
        """Raise the places by SQL: this release takes none from the catalog."""
        import psycopg

        address = self._database_url.replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as session:
            session.execute(WIDEN.format(places=PLACES).encode())
        self._end("worker", signal.SIGKILL)
        self._start("worker")  # a worker that starts learns at once what is placed
        self._wait(lambda: self._places() >= PLACES, "the echo models are widened")
        self.widened.append(f"{PLACES} echo places by SQL")

    def _places(self) -> int:
        """The places of the narrowest echo model; 0 until all are ready."""
        workers = self._call("/v1/workers")["data"]
        found = {
            model["model"]: int(model["slots"])
            for worker in workers
            for model in worker["models"]
            if worker["state"] == "online" and model["state"] == "ready"
        }
        return min(found.get(f"echo:{persona}", 0) for persona in self._personas)

    def _find_engines(self) -> tuple[int, ...]:
        worker = Snapshot.take().family(self._running["worker"].pid)
        return tuple(pid for pid in worker if "workers.engine" in command(pid))

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _call(self, path: str, document: object = None) -> Any:
        body = None if document is None else json.dumps(document).encode()
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
        }
        request = urllib.request.Request(f"{self.url}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def _wait(self, is_true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_S
        while not is_true():
            ended = [n for n, one in self._running.items() if not one.is_alive]
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: not so: {what}\n{self.logs()}")
            time.sleep(0.2)

    def _run(self, line: str) -> str:
        done = subprocess.run(
            ["sh", "-c", line],
            env=self._environ,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: {line}: {done.stdout}{done.stderr}")
        return done.stdout

    def _start(self, process: str) -> None:
        folder = Path(tempfile.mkdtemp(prefix=f"{process}-", dir=self._folder))
        self._running[process] = ServerProcess(
            # A Procfile serves the network; a benchmark stays on this machine.
            ["sh", "-c", self._lines[process].replace("0.0.0.0", HOST)],
            folder=folder,
            environ=self._environ,
            name=process,
        )

    def _end(self, process: str, sign: signal.Signals) -> None:
        self._running.pop(process).end(sign, timeout_s=40)


def _plain_environ(tree: Path, folder: Path) -> dict[str, str]:
    """What a process of ``tree`` needs of this one's environment: its own programs."""
    return {
        "PATH": f"{tree / '.venv' / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(tree),  # this tree, wherever its .venv was installed from
        "PYTHONUNBUFFERED": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }
