"""B4 on an NVIDIA GPU: the packed engine against transformers and against the memory.

Random bfloat16 weights of real models' shapes, made on the card; greedy, every answer
at its full length. Measured: sequential ``generate()`` (of a few of the
requests), transformers' continuous batching, the engine, and the engine without its
graphs. Seconds are the wall's. The roofline is the time that the bytes of each pass
take (all weights once, the keys and values of every decoding token) at the speed at
which this card copies, or its products at the speed of a large one: the longer.

``decode`` has short prompts and long answers of one length; ``trace`` has the lengths
of the Azure conversation trace.
"""

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from benchmarks.common.engine_sides import Ask, continuously, new_tokens
from benchmarks.common.figures import Board, Rounds
from benchmarks.simulator import arrivals
from fixtures import tiny
from genie.contracts.inference import Sampling, WorkClass
from workers.engine.child.backend import EngineLimits
from workers.engine.child.scheduler import ForwardPass
from workers.engine.protocol import EngineRequest
from workers.engine.torch import CUDA_BUDGET, packed
from workers.engine.torch.packed import PackedBackend
from workers.engine.torch.prompts import PromptRenderer

GOALS = {"sequential": 12.0, "batched": 1.3, "roofline": 0.5}
LLAMA_8B: dict[str, object] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
QWEN_HALF_B: dict[str, object] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
QWEN_3B: dict[str, object] = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, tuple[str, dict[str, object]]] = {
    "0.5b": ("qwen2", QWEN_HALF_B),
    "3b": ("qwen2", QWEN_3B),
    "8b": ("llama", LLAMA_8B),
}
CONTEXT = 4096
LETTERS = "abcdefghijklmnopqrstuvwxyz     "


@dataclass(slots=True)
class Card:
    """What this card can do: bytes and operations a second, measured."""

    bandwidth: float
    flops: float

    def seconds(self, of_bytes: float, of_operations: float) -> float:
        """The least time of a pass."""
        return max(of_bytes / self.bandwidth, of_operations / self.flops)


def measured_card() -> Card:
    """Copies of a gigabyte and products of 8192 x 8192, the median of some."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy = _median(lambda: target.copy_(source))
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn_like(a)
    product = _median(lambda: a @ b)
    return Card(bandwidth=2 * source.numel() / copy, flops=2 * 8192**3 / product)


def _median(work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    found = sorted(seconds(work) for _ in range(9))
    return found[4]


def seconds(work: Callable[[], object]) -> float:
    """Wall time until the card is done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def built(shape: str) -> Any:
    """A random model of this shape, in bfloat16 on the card; the same every time."""
    kind, sizes = SHAPES[shape]
    config = AutoConfig.for_model(kind, **sizes, max_position_embeddings=CONTEXT)
    with torch.device("cuda"):
        torch.manual_seed(7)
        build: Any = AutoModelForCausalLM.from_config
        model = build(config, dtype=torch.bfloat16)
    model.train(False)
    return model


class Rivals:
    """The model as transformers serves it."""

    def __init__(self, shape: str, slots: int) -> None:
        self._model, self._slots = built(shape), slots
        self._attention = self._model.config._attn_implementation

    def sequential(self, asks: list[Ask]) -> None:
        """``generate()`` one by one."""
        self._model.set_attn_implementation(self._attention)
        for ask in asks:
            ids = torch.tensor([ask.ids], device="cuda")
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=ask.new,
                do_sample=False,
                eos_token_id=-1,
                pad_token_id=0,
            )

    def batched(self, asks: list[Ask]) -> None:
        """transformers' continuous batching, as it sizes itself on a card."""
        self._model.set_attn_implementation(self._attention)
        most = {"max_requests_per_batch": self._slots}
        made = continuously(self._model, asks, most)
        if made != new_tokens(asks):
            raise SystemExit(f"generate_batch made {made} tokens")


class Ours:
    """The model as this engine serves it, stepped here."""

    def __init__(
        self, shape: str, slots: int, prompts: PromptRenderer, card: Card
    ) -> None:
        self._model, self._card = built(shape), card
        room = EngineLimits(
            model=shape, slots=slots, context=CONTEXT, waiting=1000, budget=CUDA_BUDGET
        )
        self.prepared_s = seconds(lambda: self._prepare(room, prompts))
        self._served = 0
        self._passes: list[tuple[int, int, int]] = []
        self._record()
        parameters = list(self._model.parameters())
        self.weight_bytes = sum(one.numel() * one.element_size() for one in parameters)
        config = self._model.config
        width = config.hidden_size // config.num_attention_heads
        heads = config.num_key_value_heads
        self.kv_bytes = 2 * config.num_hidden_layers * heads * width * 2

    def _prepare(self, room: EngineLimits, prompts: PromptRenderer) -> None:
        self.runner = packed.self_tested(self._model, prompts, room)
        self.backend = PackedBackend(
            room, time.monotonic, runner=self.runner, prompts=prompts, ends=frozenset()
        )

    def serve(self, asks: list[Ask], **sampling: Any) -> None:
        """All at once."""
        self._passes.clear()
        for ask in asks:
            self._served += 1
            request = EngineRequest(
                id=str(self._served),
                scope=str(self._served),
                work_class=WorkClass.INTERACTIVE,
                sampling=Sampling(max_tokens=ask.new, ignore_eos=True, **sampling),
                deadline_s=3600.0,
                prompt=ask.prompt,
            )
            self.backend.submit(request)
        while self.backend.is_busy:
            for event in self.backend.step():
                if getattr(event, "fault", None) is not None:
                    raise SystemExit(str(event))

    def without_graphs(self, asks: list[Ask]) -> None:
        """The same, each pass started kernel by kernel."""
        graphs, self.runner.graphs = self.runner.graphs, None
        try:
            self.serve(asks)
        finally:
            self.runner.graphs = graphs

    def roofline(self) -> float:
        """The least seconds of the passes of the last `serve`."""
        parameters = self.weight_bytes / 2
        return sum(
            self._card.seconds(
                self.weight_bytes + keys * self.kv_bytes, 2 * parameters * tokens
            )
            for tokens, keys, _ in self._passes
        )

    def passes(self) -> tuple[int, int]:
        """Passes of the last `serve`, and how many of them only decoded."""
        return len(self._passes), sum(not chunks for *_, chunks in self._passes)

    def _record(self) -> None:
        forward = self.runner.forward

        def record(step: ForwardPass) -> Any:
            keys = sum(one.computed + 1 for one in step.decodes)
            self._passes.append((step.tokens, keys, len(step.chunks)))
            return forward(step)

        self.runner.forward = record  # type: ignore[method-assign]


@dataclass(slots=True)
class Load:
    """One kind of load, and its rounds."""

    name: str
    asks: Callable[[int], list[Ask]]
    share: int
    """``generate()`` answers one of so many requests."""

    rounds: Rounds = field(default_factory=Rounds)

    def against(self, rivals: Rivals, number: int) -> None:
        """One round of the others."""
        asks = self.asks(number)
        some = asks[number % self.share :: self.share]
        self._note("sequential", some, lambda: rivals.sequential(some))
        self._note("batched", asks, lambda: rivals.batched(asks))

    def measure(self, ours: Ours, number: int) -> None:
        """One round of the engine."""
        asks = self.asks(number)
        if self.name == "decode":
            self._note("no_graphs", asks, lambda: ours.without_graphs(asks))
        self._note("engine", asks, lambda: ours.serve(asks))
        self.rounds.note("roofline", new_tokens(asks) / ours.roofline())
        passes, pure = ours.passes()
        say(f"{self.name}: {passes} passes, {pure} of them only decode")
        self._note("sampled", asks, lambda: ours.serve(asks, **SAMPLED))

    def report(self, board: Board, shape: str, slots: int) -> None:
        """The engine's ratio to each side."""
        self.rounds.show(f"new tokens/s, {self.name}, {shape}")
        medians = self.rounds.medians(1)
        details = {
            "slots": slots,
            "rounds": self.rounds.count(),
            "tokens_per_s": medians,
        }
        for side in medians:
            if side != "engine":
                ratio = self.rounds.ratio("engine", side)
                name = f"{shape}_{self.name}_vs_{side}"
                board.higher(name, ratio, GOALS.get(side), **details)

    def _note(self, side: str, asks: list[Ask], work: Callable[[], object]) -> None:
        taken = seconds(work)
        self.rounds.note(side, new_tokens(asks) / taken)
        say(f"{self.name}, {side}: {new_tokens(asks)} tokens in {taken:.1f} s")


SAMPLED = {"temperature": 0.8, "top_p": 0.95, "seed": 1}


def asks_of(
    prompts: PromptRenderer, lengths: list[tuple[int, int]], seed: int
) -> list[Ask]:
    """Requests of these prompts and answers, each with words of its own."""
    chance, most = random.Random(seed), CONTEXT // 2
    found = []
    for prompt, new in lengths:
        text = "".join(chance.choices(LETTERS, k=min(prompt, most)))
        found.append(Ask(text, prompts.plain(text), min(new, most - 8)))
    return found


def loads_of(prompts: PromptRenderer, slots: int, new: int) -> list[Load]:
    """Both kinds of load."""
    recorded = arrivals.load("conversation", arrivals.folder(), 4000, seed=1)

    def decode(number: int) -> list[Ask]:
        return asks_of(prompts, [(64, new)] * slots, number)

    def trace(number: int) -> list[Ask]:
        part = recorded[number * slots : (number + 1) * slots]
        return asks_of(prompts, [(one.prompt, one.answer) for one in part], number)

    return [Load("decode", decode, slots // 2), Load("trace", trace, slots)]


def measured(shape: str, board: Board, card: Card, said: argparse.Namespace) -> None:
    """All rounds of one shape: the others first, since a card holds one of both."""
    with tempfile.TemporaryDirectory() as folder:
        tiny.byte_tokenizer().save_pretrained(folder)
        prompts = PromptRenderer(AutoTokenizer.from_pretrained(folder))
    loads = loads_of(prompts, said.slots, said.new)
    if not said.without_rivals:
        rivals = Rivals(shape, said.slots)
        rivals.sequential(asks_of(prompts, [(64, 8)], 0))
        for load in loads:
            for number in range(said.rounds):
                load.against(rivals, number)
        del rivals
        gc.collect()
        torch.cuda.empty_cache()
    if said.without_engine:
        return
    ours = Ours(shape, said.slots, prompts, card)
    say(f"{shape}: ready in {ours.prepared_s:.1f} s")
    for load in loads:
        for number in range(said.rounds):
            load.measure(ours, number)
        load.report(board, shape, said.slots)


def say(line: str) -> None:
    """Beside the figures."""
    print(line, file=sys.stderr)


def main() -> int:
    """Measure, print, and say whether it could measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--new", type=int, default=256, help="tokens of `decode`")
    parser.add_argument("--without-rivals", action="store_true")
    parser.add_argument("--without-engine", action="store_true")
    said = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU is here; benchmarks/engine.py measures the CPU")
    torch.set_grad_enabled(False)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    board, card = Board("engine_cuda"), measured_card()
    name = torch.cuda.get_device_name()
    say(f"{name}: {card.bandwidth / 1e12:.2f} TB/s, {card.flops / 1e12:.0f} TFLOP/s")
    for shape in said.shapes:
        measured(shape, board, card, said)
        gc.collect()
        torch.cuda.empty_cache()
    return board.report()


if __name__ == "__main__":
    raise SystemExit(main())
