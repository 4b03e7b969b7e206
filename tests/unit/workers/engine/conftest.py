"""Tiny random models, made in well under a second; none is committed."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from genie.contracts.inference import Message, Sampling, WorkClass
from genie.contracts.model import ModelSpec, Quant
from workers.engine import loading
from workers.engine.backend import Room
from workers.engine.packed import PackedBackend
from workers.engine.prompts import Prompts
from workers.engine.protocol import EngineEvent, EngineRequest, Finish, Piece
from workers.engine.wire import Load

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROLS = ["<|im_start|>", "<|im_end|>"]
VOCABULARY = 256 + len(CONTROLS)
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
    # Wide enough that the likeliest token is far ahead of the second.
    "initializer_range": 0.5,
}
EXTRAS: dict[str, dict[str, object]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 7},
    "gemma2": {"sliding_window": 7, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 7, "query_pre_attn_scalar": 8},
    "gpt_oss": {"sliding_window": 7, "num_local_experts": 2, "num_experts_per_tok": 1},
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and two control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROLS)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=CONTROLS[0],
        eos_token=CONTROLS[1],
        chat_template=CHATML,
    )


@dataclass(frozen=True)
class Tiny:
    """A tiny random model on disk."""

    path: Path

    def spec(self) -> ModelSpec:
        return ModelSpec(
            id="tiny",
            family="tiny",
            parameters=10_000,
            license="none",
            source=f"path:{self.path}",
            context_max=512,
            layers=2,
            kv_heads=2,
            head_dim=8,
        )

    def quant(self) -> Quant:
        return Quant(name="f32", dtype="float32", weight_bytes=40_000)

    def load(self, *, slots: int = 4, context: int = 256, budget: int = 32) -> Load:
        return Load(
            spec=self.spec(),
            quant=self.quant(),
            path=str(self.path),
            slots=slots,
            context=context,
            waiting=64,
            budget=budget,
            device="cpu",
            threads=1,
        )

    def reference(self) -> PreTrainedModel:
        loaded = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)
        model = cast("PreTrainedModel", loaded)
        model.train(False)
        return model

    def prompts(self) -> Prompts:
        return Prompts(PreTrainedTokenizerFast.from_pretrained(self.path))


class Bench:
    """A packed engine on a bench: stepped by hand, its events kept by request."""

    def __init__(self, tiny: Tiny, load: Load) -> None:
        room = Room(
            model="tiny",
            slots=load.slots,
            context=load.context,
            waiting=load.waiting,
            budget=load.budget,
        )
        self.now = 0.0
        self.tiny = tiny
        self.model = loading.load_model(load, tiny.path)
        self.prompts = tiny.prompts()
        runner = loading.self_tested(self.model, self.prompts, room, "tiny")
        ends = loading.end_tokens(self.model, self.prompts)
        self.backend = PackedBackend(
            room, lambda: self.now, runner=runner, prompts=self.prompts, ends=ends
        )
        self.events: dict[str, list[EngineEvent]] = {}

    def step(self) -> None:
        for event in self.backend.step():
            self.events.setdefault(event.id, []).append(event)

    def run(self, steps: int = 2000) -> None:
        """Step until nothing is left to do."""
        for _ in range(steps):
            if not self.backend.is_busy:
                return
            self.step()
        raise AssertionError("the engine did not come to an end")

    def answer(self, request: EngineRequest) -> tuple[str, Finish]:
        """Run one request to its end."""
        self.backend.submit(request)
        self.run()
        return self.text(request.id), self.finish(request.id)

    def text(self, request_id: str) -> str:
        pieces = self.events[request_id]
        return "".join(piece.text for piece in pieces if isinstance(piece, Piece))

    def finish(self, request_id: str) -> Finish:
        ends = [one for one in self.events[request_id] if isinstance(one, Finish)]
        assert len(ends) == 1, f"{request_id} has {len(ends)} terminal events"
        assert self.events[request_id][-1] is ends[0]
        return ends[0]


def ask(
    request_id: str = "r",
    *,
    prompt: str | None = None,
    chat: str | None = None,
    work_class: WorkClass = WorkClass.INTERACTIVE,
    deadline_s: float = 60.0,
    sampling: Sampling | None = None,
) -> EngineRequest:
    """A request with everything a test does not care about filled in."""
    messages = () if chat is None else (Message(role="user", content=chat),)
    return EngineRequest(
        id=request_id,
        scope="org",
        work_class=work_class,
        sampling=sampling or Sampling(max_tokens=8),
        deadline_s=deadline_s,
        messages=messages,
        prompt=prompt,
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Make a tiny model of a type, once a session."""
    made: dict[str, Tiny] = {}

    def make(kind: str = "llama") -> Tiny:
        if kind not in made:
            made[kind] = _make(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


def _make(kind: str, path: Path) -> Tiny:
    torch.manual_seed(7)
    torch.set_num_threads(1)
    config = AutoConfig.for_model(kind, **(SHAPE | EXTRAS[kind]))
    make: Any = AutoModelForCausalLM.from_config
    make(config).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return Tiny(path)


@pytest.fixture
def request_for() -> Callable[..., EngineRequest]:
    """`ask`, for tests that live in another module."""
    return ask


@pytest.fixture
def bench(tiny: Callable[[str], Tiny]) -> Callable[..., Bench]:
    """A packed engine of a tiny model: ``bench("llama", slots=2)``."""

    def make(kind: str = "llama", **room: int) -> Bench:
        model = tiny(kind)
        return Bench(model, model.load(**room))

    return make
