"""Tiny random models, made in well under a second; none is committed."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fixtures import tiny as tiny_models
from genie.contracts.inference import Message, Sampling, WorkClass
from genie.contracts.model import ModelSpec, Quant
from workers.engine.child.backend import EngineLimits
from workers.engine.protocol import EngineEvent, EngineRequest, Finish, Load, Piece
from workers.engine.torch import packed
from workers.engine.torch.packed import PackedBackend
from workers.engine.torch.prompts import PromptRenderer

DEVICE = os.environ.get("GENIE_TEST_DEVICE", "cpu")
"""What the engine computes on; what it is held to stays on the CPU."""


@dataclass(frozen=True)
class Tiny:
    """A tiny random model on disk."""

    path: Path

    def spec(self) -> ModelSpec:
        return tiny_models.spec_of(self.path)

    def quant(self) -> Quant:
        return tiny_models.QUANT

    def load(self, *, slots: int = 4, context: int = 256, budget: int = 32) -> Load:
        return Load(
            spec=self.spec(),
            quant=self.quant(),
            path=str(self.path),
            slots=slots,
            context=context,
            waiting=64,
            budget=budget,
            device=DEVICE,
            threads=1,
        )

    @cached_property
    def reference(self) -> PreTrainedModel:
        """The model as transformers alone computes it."""
        loaded = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)
        model = cast("PreTrainedModel", loaded)
        model.train(False)
        return model

    def prompts(self) -> PromptRenderer:
        return PromptRenderer(PreTrainedTokenizerFast.from_pretrained(self.path))


class Bench:
    """A packed engine on a bench: stepped by hand, its events kept by request."""

    def __init__(self, tiny: Tiny, load: Load) -> None:
        room = EngineLimits(
            model="tiny",
            slots=load.slots,
            context=load.context,
            waiting=load.waiting,
            budget=load.budget,
        )
        self.now = 0.0
        self.tiny = tiny
        self.model = packed.load_model(load)
        self.prompts = tiny.prompts()
        runner = packed.self_tested(self.model, self.prompts, room)
        ends = packed.end_tokens(self.model, self.prompts)
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
            path = tmp_path_factory.mktemp(kind)
            made[kind] = Tiny(tiny_models.make(kind, path))
        return made[kind]

    return make


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
