"""``genie demo``: starts a fleet with a small real model and shows it at work."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from genie import catalog, env, logs
from genie.cli import tables
from genie.cli.fleet import model_state
from genie.cli.up import DEFAULT_PORT, port_option, stop_on_signals
from genie.errors import GenieError, JobTimeout

if TYPE_CHECKING:
    from genie.api_types import WorkerAnswer
    from genie.cli.embedded import EmbeddedFleet
    from genie.sdk.client import Client
    from genie.sdk.jobs import Job, Result

MODEL_WAIT_S = 1800.0
"""The first run downloads and converts a model, which takes long on a slow line."""

JOB_WAIT_S = 600.0
QUESTION = "In two sentences: what is a GPU good for?"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTask:
    """One job of the demo: a persona, a title and a text."""

    persona: str
    title: str
    prompt: str
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoAnswer:
    """One answer of the demo, as ``--json`` prints it."""

    persona: str | None
    model: str
    worker: str | None
    locality: str | None
    tokens: int
    seconds: float
    tokens_per_s: float
    text: str


@dataclass(slots=True, kw_only=True)
class DemoReport:
    """A report of the demo, for ``--json``."""

    url: str = ""
    answers: list[DemoAnswer] = field(default_factory=list)
    placements: list[dict[str, str | None]] = field(default_factory=list)
    first_answer_s: float | None = None


@click.command()
@click.option("--exit", "leave", is_flag=True, help="Stop after the show.")
@click.option("--json", "as_json", is_flag=True, help="Print what happened as JSON.")
@port_option(DEFAULT_PORT)
@click.option("--echo", is_flag=True, help="Use the weightless echo models.")
@click.option("--verbose", is_flag=True, help="Show logs.")
def demo(leave: bool, as_json: bool, port: int, echo: bool, verbose: bool) -> None:
    """Start a fleet on this machine and watch it answer.

    The worker joins empty; the planner places the model. Everything runs here: no
    prompt leaves this machine.
    """
    from genie.cli.embedded import EmbeddedFleet, EmbeddedFleetOptions

    began = time.monotonic()
    logs.configure(level="INFO" if verbose else "ERROR")
    stop = stop_on_signals()
    options = EmbeddedFleetOptions(
        home=env.read(env.ClientSettings).home,
        port=port,
        catalog_path=catalog.ECHO if echo else catalog.SHIPPED,
    )
    console = Console(stderr=as_json, highlight=False)
    with EmbeddedFleet(options) as fleet, fleet.client() as client:
        show = DemoRun(console, client, stop, began)
        story = show.run(fleet.url)
        if as_json:
            click.echo(json.dumps(asdict(story), indent=2))
        if leave or stop.is_set():
            return
        _farewell(console, fleet)
        stop.wait()
        console.print("stopping …")


class DemoRun:
    """Plays the demo's scenes and reports them on a console."""

    def __init__(
        self,
        console: Console,
        client: "Client",
        stop: threading.Event,
        began: float,
    ) -> None:
        self._console, self._client, self._stop = console, client, stop
        self._began = began
        self._story = DemoReport()

    def run(self, url: str) -> DemoReport:
        """Play all scenes; returns a report."""
        self._story.url = url
        self._say(f"fleet is up at [bold]{url}[/]: web, brain, beat, one worker")
        self._placement()
        self._question()
        self._jobs(tasks())
        return self._story

    def _say(self, text: str) -> None:
        elapsed = time.monotonic() - self._began
        self._console.print(f"[dim]{elapsed:6.1f} s[/]  {text}", soft_wrap=True)

    def _placement(self) -> None:
        """Report every change of the worker until a model is ready."""
        told = ""
        for worker in self._watch(MODEL_WAIT_S):
            state = _state(worker)
            if state != told:
                self._say(state)
                told = state
            if any(model.state == "ready" for model in worker.models):
                break
        self._story.placements = [
            {"worker": worker.name, "model": placed.model, "reason": placed.reason}
            for worker in self._client.workers()
            for placed in worker.placements
        ]

    def _watch(self, limit_s: float) -> "Iterator[WorkerAnswer]":
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            self._check_stop()
            yield from self._client.workers()
            time.sleep(0.2)
        raise JobTimeout(
            f"no model was ready within {limit_s:.0f} s; "
            "run `genie demo --verbose` to see why"
        )

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise click.Abort

    def _question(self) -> None:
        self._say(f'ask: "{QUESTION}"')
        with self._client.stream(QUESTION, max_tokens=60) as answer:
            for piece in answer:
                self._check_stop()
                self._console.out(piece, end="", style="cyan")
                self._console.file.flush()
        self._console.print()
        self._story.first_answer_s = round(time.monotonic() - self._began, 2)
        self._tell(answer.result)

    def _jobs(self, wanted: Sequence[DemoTask]) -> None:
        self._say(f"submit {len(wanted)} jobs, each tagged with a persona")
        jobs = [
            self._client.submit(t.prompt, persona=t.persona, max_tokens=t.max_tokens)
            for t in wanted
        ]
        self._wait(jobs)
        for task, job in zip(wanted, jobs, strict=True):
            try:
                result = job.result(timeout=JOB_WAIT_S)
            except GenieError as error:
                self._say(f"[red]{task.persona}[/]: {error.message}")
                raise
            self._console.print(f"\n[bold]{task.persona}[/] · {task.title}")
            self._console.print(Text(result.text.strip(), style="cyan"))
            self._tell(result)
        self._table()

    def _wait(self, jobs: "Sequence[Job]") -> None:
        columns = (TextColumn("         "), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task("jobs", total=len(jobs))
            until = time.monotonic() + JOB_WAIT_S
            while time.monotonic() < until:
                self._check_stop()
                done = sum(job.done() for job in jobs)
                progress.update(bar, completed=done)
                if done == len(jobs):
                    return
                time.sleep(0.2)

    def _tell(self, result: "Result") -> None:
        told = DemoAnswer(
            persona=result.persona,
            model=result.model,
            worker=result.worker,
            locality=result.locality.value if result.locality else None,
            tokens=result.usage.completion_tokens,
            seconds=round(result.timing.total_s, 2),
            tokens_per_s=round(result.tokens_per_s, 1),
            text=result.text,
        )
        self._story.answers.append(told)
        instead = f", instead of {result.substituted}" if result.substituted else ""
        self._console.print(
            f"[dim]— {told.model} on {told.worker} ({told.locality}{instead}) · "
            f"{told.tokens} tokens in {told.seconds} s[/]"
        )

    def _table(self) -> None:
        columns = ("persona", "model", "worker", "locality", "tokens", "tokens/s")
        rows = [
            (a.persona, a.model, a.worker, a.locality, a.tokens, a.tokens_per_s)
            for a in self._story.answers
        ]
        table = tables.ListTable(columns=columns, rows=rows)
        found = tables.fit(table, rows, self._console.width)
        self._console.print()
        self._console.print(tables.build(table, rows, found or {}))


def tasks() -> tuple[DemoTask, ...]:
    """Real text for each persona, from this project's own files."""
    package = resources.files("genie")
    memory = _lines(package.joinpath("memory.py").read_text(encoding="utf-8"), 24, 14)
    topology = _lines(package.joinpath("errors.py").read_text("utf-8"), 0, 12)
    return (
        DemoTask(
            persona="review",
            title="genie/memory.py",
            prompt=f"Review this Python code:\n\n{memory}",
            max_tokens=64,
        ),
        DemoTask(
            persona="rollup",
            title="genie/errors.py",
            prompt=f"Summarise this list of errors in two sentences:\n\n{topology}",
            max_tokens=64,
        ),
        DemoTask(
            persona="coder",
            title="a small function",
            prompt="Write a Python function that returns the larger of two numbers.",
            max_tokens=64,
        ),
        DemoTask(
            persona="classify",
            title="one word",
            prompt="Is this review positive or negative? 'The machine is quiet and "
            "fast, I love it.' Answer positive or negative.",
            max_tokens=8,
        ),
        DemoTask(
            persona="chat",
            title="a greeting",
            prompt="Greet the people who just added their first GPU machine.",
            max_tokens=40,
        ),
    )


def _lines(text: str, first: int, count: int) -> str:
    return "\n".join(islice(text.splitlines(), first, first + count))


def _state(worker: "WorkerAnswer") -> str:
    if not worker.models:
        placed = ", ".join(p.model for p in worker.placements)
        plan = f"; the planner wants [bold]{placed}[/] there" if placed else ""
        return f"worker [bold]{worker.name}[/] joined; it holds no model yet{plan}"
    return "; ".join(
        f"{worker.name}: [bold]{model.model}[/] is {model_state(model)}"
        + (f": [red]{model.error}[/]" if model.error else "")
        for model in worker.models
    )


def _farewell(console: Console, fleet: "EmbeddedFleet") -> None:
    snippets = (
        ("shell", f"export GENIE_URL={fleet.url} GENIE_API_KEY={fleet.api_key}"),
        ("Python", _python()),
        ("openai", _openai(fleet.url, fleet.api_key)),
        ("curl", _curl(fleet.url, fleet.api_key)),
    )
    console.print(f"\nThe fleet keeps serving at [bold]{fleet.url}[/]")
    console.print(f"key   {fleet.api_key}", soft_wrap=True)
    console.print(f"pages {fleet.url}/admin/ (sign in with the key)", soft_wrap=True)
    for name, text in snippets:
        console.print(f"\n[bold]{name}[/]")
        console.out(text)
    console.print("\nCtrl-C stops it.")


def _python() -> str:
    return 'import genie\nprint(genie.ask("Say hello.", persona="chat"))'


def _openai(url: str, key: str) -> str:
    return (
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{url}/v1", api_key="{key}")\n'
        'answer = client.chat.completions.create(model="chat", messages='
        '[{"role": "user", "content": "Say hello."}])\n'
        "print(answer.choices[0].message.content)"
    )


def _curl(url: str, key: str) -> str:
    return (
        f"curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        '  -d \'{"model": "chat", "messages": [{"role": "user", "content": '
        '"Say hello."}]}\''
    )
