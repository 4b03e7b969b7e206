"""B4: the packed engine against sequential ``generate()`` on the small real model.

Sixteen requests of 64 new tokens, greedy, float32 on one thread, A and B interleaved;
four of them also one by one. ``--quick`` measures one round of 32 tokens. The model is
pulled first if it is not there.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from genie import catalog
from genie.contracts.inference import Message, Sampling, WorkClass
from workers.engine import CPU_BUDGET, loading
from workers.engine.backend import Backend, Room
from workers.engine.protocol import EngineRequest, Piece
from workers.engine.wire import Load
from workers.files import Models

MODEL = "smollm2:135m"
GOAL = 4.5
REQUESTS = 16
NEW_TOKENS = 64
QUICK_TOKENS = 32
TOPICS = (
    "the sea",
    "a lighthouse",
    "old maps",
    "rain in the city",
    "a quiet library",
    "the first train",
    "mountain bees",
    "a clockmaker",
)


def main() -> int:
    """Measure, print, and say whether it could measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one round, shorter answers"
    )
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    rounds = Rounds(
        _model_path(),
        sequential=2 if quick else 4,
        tokens=QUICK_TOKENS if quick else NEW_TOKENS,
    )
    for number in range(1 if quick else 5):
        rounds.measure(number)
    rounds.report()
    return 0


class Rounds:
    """Both sides, loaded once, measured in turns."""

    def __init__(self, path: Path, *, sequential: int, tokens: int) -> None:
        self._sequential = sequential
        self._tokens = tokens
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self._plain: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32
        )
        self._engine = _engine(path)
        self._ratios: list[float] = []
        self._speeds: list[tuple[float, float]] = []
        self._same = 0
        self._compared = 0

    def measure(self, number: int) -> None:
        """One round: some prompts by ``generate()``, all of them by the engine."""
        prompts = [
            f"Write story {number * 100 + at} about {TOPICS[at % len(TOPICS)]}."
            for at in range(REQUESTS)
        ]
        started = time.process_time()
        plain = [self._generate(prompt) for prompt in prompts[: self._sequential]]
        slow = self._sequential * self._tokens / (time.process_time() - started)
        started = time.process_time()
        packed = self._serve(prompts)
        fast = REQUESTS * self._tokens / (time.process_time() - started)
        self._same += sum(a == b for a, b in zip(plain, packed, strict=False))
        self._compared += len(plain)
        self._speeds.append((slow, fast))
        self._ratios.append(fast / slow)

    def report(self) -> None:
        """A table on stderr, a JSON line on stdout."""
        print(
            f"{'round':>5} {'generate':>10} {'engine':>10} {'ratio':>6}",
            file=sys.stderr,
        )
        for number, (slow, fast) in enumerate(self._speeds):
            line = f"{number:>5} {slow:>10.1f} {fast:>10.1f} {fast / slow:>6.2f}"
            print(line, file=sys.stderr)
        print(
            f"tokens per CPU second; {self._same} of {self._compared} same",
            file=sys.stderr,
        )
        figure = {
            "bench": "engine",
            "metric": "vs_sequential",
            "value": round(statistics.median(self._ratios), 2),
            "goal": GOAL,
            "better": "higher",
            "model": MODEL,
            "requests": REQUESTS,
            "new_tokens": self._tokens,
            "rounds": len(self._ratios),
            "sequential_tokens_per_s": _median([slow for slow, _ in self._speeds]),
            "engine_tokens_per_s": _median([fast for _, fast in self._speeds]),
            "identical_answers": f"{self._same}/{self._compared}",
        }
        print(json.dumps(figure))

    def _generate(self, prompt: str) -> str:
        encoded = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        # Never ends early, like the engine's ignore_eos: both compute all tokens.
        out = self._plain.generate(
            **encoded, max_new_tokens=self._tokens, do_sample=False, eos_token_id=-1
        )
        new = out[0, encoded["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(new, skip_special_tokens=True))

    def _serve(self, prompts: list[str]) -> list[str]:
        for index, prompt in enumerate(prompts):
            self._engine.submit(_request(str(index), prompt, self._tokens))
        texts = {str(index): "" for index in range(len(prompts))}
        while self._engine.is_busy:
            for event in self._engine.step():
                if isinstance(event, Piece):
                    texts[event.id] += event.text
                elif event.fault is not None:
                    raise SystemExit(event.fault.message)
        return list(texts.values())


def _request(name: str, prompt: str, tokens: int) -> EngineRequest:
    return EngineRequest(
        id=name,
        scope="bench",
        work_class=WorkClass.BATCH,
        sampling=Sampling(max_tokens=tokens, ignore_eos=True),
        deadline_s=3600.0,
        messages=(Message(role="user", content=prompt),),
    )


def _engine(path: Path) -> Backend:
    spec = catalog.load().models[MODEL]
    load = Load(
        spec=spec,
        quant=spec.quants[0],
        path=str(path),
        slots=REQUESTS,
        context=256,
        waiting=REQUESTS,
        budget=CPU_BUDGET,
        device="cpu",
        threads=1,
    )
    room = Room(
        model=MODEL,
        slots=load.slots,
        context=load.context,
        waiting=load.waiting,
        budget=load.budget,
    )
    backend, _ = loading.load(load, room, lambda _: None, clock=time.monotonic)
    return backend


def _model_path() -> Path:
    home = os.environ.get("GENIE_HOME", "~/.local/share/genie-fleet")
    models = Models(Path(home).expanduser() / "models")
    path = models.ensure(catalog.load().models[MODEL]).path
    if path is None:
        raise SystemExit(f"{MODEL} has no files")
    return path


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 1)


if __name__ == "__main__":
    raise SystemExit(main())
