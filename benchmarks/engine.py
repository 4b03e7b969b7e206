"""B4: the packed engine against what transformers offers, and against its own limit.

In turns, in each round: sequential ``generate()`` (some of the requests), padded
batches, transformers' continuous batching, the engine, and the engine's forward passes
alone: what is left when admission, sampling, detokenising and events cost nothing.
Greedy, float32, one thread, every answer at its full length; tokens are new tokens,
time is processor time.

Three loads: ``trace`` has the lengths of the Azure conversation trace, shortened;
``steady`` has short prompts and answers of one length, so that the batch stays full;
``tiny`` has the trace's lengths on a random two-layer model, whose passes are so short
that the loop around them shows. The small real model is pulled first if it is missing.
"""

import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

import torch
from transformers.utils import logging

from benchmarks.common.engine_sides import (
    Ask,
    Packed,
    Transformers,
    cpu_seconds,
    new_tokens,
)
from benchmarks.common.figures import Board, Rounds, is_quick
from benchmarks.simulator import arrivals
from fixtures import tiny
from genie import catalog
from genie.contracts.model import ModelSpec
from workers.files.files import ModelStore

MODEL = "smollm2:135m"
GOALS = {"sequential": 4.5, "batched": 1.7, "limit": 0.85}
SLOTS, CONTEXT = 16, 512
SHARE = 4
"""Of how many requests sequential ``generate()`` answers one; the chosen ones are
spread over cheap and dear ones."""

PROMPT_TOKENS = 6
"""Prompt tokens that cost ``generate()`` about as much as one new token."""

TRACED, QUICK_TRACED = 32, 24
"""Requests of a round: more than slots, so that some wait until others have ended."""

SHORTER, QUICK_SHORTER = 12, 24
"""The trace's lengths are divided by this: a small model gets small work."""

STEADY_PROMPT, STEADY_NEW, QUICK_NEW = 16, 32, 12
PERSONA_TOKENS = 256
WORDS = ("sea", "maps", "rain", "quiet", "library", "train", "bees", "clock", "stone")
TINY = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}


@dataclass(slots=True)
class Model:
    """One model, loaded both ways, and the prompts it is given."""

    name: str
    plain: Transformers
    packed: Packed

    def ask(self, chance: random.Random, prompt: int, new: int) -> Ask:
        """A request of about these lengths, within the context."""
        prompt = min(prompt, CONTEXT - 40)
        return self.text(self.words(chance, prompt), min(new, CONTEXT - prompt - 8))

    def words(self, chance: random.Random, tokens: int) -> str:
        """Random words of about so many tokens."""
        text = " ".join(chance.choices(WORDS, k=tokens))
        return str(self.plain.tokenizer.decode(self.plain.ids(text)[:tokens]))

    def text(self, text: str, new: int) -> Ask:
        """A request with this prompt."""
        return Ask(text, self.plain.ids(text), new)


@dataclass(slots=True)
class Load:
    """A kind of load on a model: its requests, round by round, and its figures."""

    model: Model
    asks: Callable[[int], list[Ask]]
    with_static: bool = True
    rounds: Rounds = field(default_factory=Rounds)
    same: int = 0
    compared: int = 0

    def measure(self, number: int) -> None:
        """One round: every side in turn, new prompts."""
        plain, packed = self.model.plain, self.model.packed
        asks = self.asks(number)
        order = sorted(range(len(asks)), key=lambda at: _cost(asks[at]))
        # From the middle of the first few: neither the cheapest nor the dearest.
        chosen = order[(SHARE // 2 + number) % SHARE :: SHARE]
        some = [asks[at] for at in chosen]
        answers: list[str] = []
        texts: list[str] = []
        self._note("sequential", some, lambda: answers.extend(plain.sequential(some)))
        if self.with_static:
            batch = asks[:SLOTS]
            self._note("static", batch, lambda: plain.static(batch, SLOTS))
        self._note("batched", asks, lambda: plain.batched(asks, SLOTS))
        scope = f"round {number}"
        self._note("engine", asks, lambda: texts.extend(packed.serve(asks, scope)))
        self._note("limit", asks, packed.passes)
        mine = [texts[at] for at in chosen]
        pairs = zip(answers, mine, strict=True)
        self.same += sum(_whole(a) == _whole(b) for a, b in pairs)
        self.compared += len(some)

    def report(self, board: Board, prefix: str, goals: dict[str, float]) -> None:
        """The engine's ratio to each side."""
        self.rounds.show(f"new tokens per CPU second, {prefix} of {self.model.name}")
        details = {
            "model": self.model.name,
            "slots": SLOTS,
            "rounds": self.rounds.count(),
            "tokens_per_cpu_s": self.rounds.medians(1),
            "identical_answers": f"{self.same}/{self.compared}",
        }
        for side in ("sequential", "static", "batched", "limit"):
            if side == "static" and not self.with_static:
                continue
            ratio, goal = self.rounds.ratio("engine", side), goals.get(side)
            board.higher(f"{prefix}_vs_{side}", ratio, goal, **details)

    def _note(self, side: str, asks: list[Ask], work: Callable[[], object]) -> None:
        self.rounds.note(side, new_tokens(asks) / cpu_seconds(work))


def main() -> int:
    """Measure, print, and say whether it could measure."""
    quick = is_quick(__doc__)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    board = Board("engine")
    spec = catalog.load().models[MODEL]
    model = loaded(MODEL, _pulled(spec), spec)
    new = QUICK_NEW if quick else STEADY_NEW
    loads = {
        "trace": (
            trace(model, QUICK_TRACED, QUICK_SHORTER)
            if quick
            else trace(model, TRACED, SHORTER)
        ),
        "steady": Load(model, lambda number: steady(model, number, new)),
    }
    for number in range(2 if quick else 5):
        for load in loads.values():
            load.with_static = not quick
            load.measure(number)
    for name, load in loads.items():
        load.report(board, name, GOALS)
    board.lower("known_prefix_ttft", known_prefix(model), None, model=MODEL)
    loop(board, with_static=not quick)
    return board.report()


def loaded(name: str, path: Path, spec: ModelSpec) -> Model:
    """A model both ways."""
    packed = Packed(path, spec, slots=SLOTS, context=CONTEXT)
    return Model(name, Transformers(path), packed)


def trace(model: Model, count: int, shorter: int) -> Load:
    """Requests with the trace's lengths; each round takes the next stretch of it."""
    recorded = arrivals.load("conversation", arrivals.folder(), 4000, seed=1)

    def asks(number: int) -> list[Ask]:
        chance = random.Random(number)
        part = recorded[number * count : (number + 1) * count]
        return [
            model.ask(chance, -(-one.prompt // shorter), -(-one.answer // shorter))
            for one in part
        ]

    return Load(model, asks)


def steady(model: Model, number: int, new: int) -> list[Ask]:
    """Requests of one length."""
    chance = random.Random(number)
    return [model.ask(chance, STEADY_PROMPT, new) for _ in range(SLOTS)]


def known_prefix(model: Model) -> float:
    """Time to the first token of a prompt whose long beginning was asked before, as a
    share of the same for a stranger, to whom nothing of it is lent."""
    chance, rounds = random.Random(0), Rounds()
    for number in range(5):
        persona = model.words(chance, PERSONA_TOKENS)
        first, then = (model.text(f"{persona} {end}", 1) for end in ("one", "two"))
        known, stranger = f"known {number}", f"stranger {number}"
        model.packed.serve([first], known)
        rounds.note("known", cpu_seconds(partial(model.packed.serve, [then], known)))
        rounds.note("new", cpu_seconds(partial(model.packed.serve, [then], stranger)))
    return rounds.ratio("known", "new")


def loop(board: Board, *, with_static: bool) -> None:
    """The same with two small layers: what is not the passes shows."""
    with tempfile.TemporaryDirectory() as folder:
        path = tiny.make("llama", Path(folder), **TINY)
        load = trace(loaded("tiny", path, tiny.spec_of(path)), TRACED, SHORTER)
        load.with_static = with_static
        for number in range(5):
            load.measure(number)
        load.report(board, "tiny", GOALS)


def _cost(ask: Ask) -> int:
    return len(ask.ids) + PROMPT_TOKENS * ask.new


def _whole(text: str) -> str:
    # A stream leaves out the bytes that never became a character; `decode` shows them.
    return text.replace("\ufffd", "")


def _pulled(spec: ModelSpec) -> Path:
    home = os.environ.get("GENIE_HOME", "~/.local/share/genie-fleet")
    path = ModelStore(Path(home).expanduser() / "models").ensure(spec).path
    if path is None:
        raise SystemExit(f"{spec.id} has no files")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
