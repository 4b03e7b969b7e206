"""The packed engine and what it is compared with, each answering the same requests."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from genie.contracts.inference import Sampling, WorkClass
from genie.contracts.model import ModelSpec
from workers.engine.child import main
from workers.engine.child.backend import Backend, EngineLimits
from workers.engine.protocol import EngineRequest, Load, Piece
from workers.engine.torch import CPU_BUDGET, ENGINE
from workers.engine.torch.layout import Layout
from workers.engine.torch.packed import PackedBackend

NO_END = -1
"""No token has this id: every answer has all of its tokens, on every side."""

PAGE = 32
"""Tokens of a page of transformers' cache: its default of 256 suits longer prompts."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: its prompt as text and as token ids, and how many tokens it gets."""

    prompt: str
    ids: list[int]
    new: int


def new_tokens(asks: Iterable[Ask]) -> int:
    """Tokens of all answers together."""
    return sum(ask.new for ask in asks)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of all threads of this process while ``work`` runs."""
    started = time.process_time()
    work()
    return time.process_time() - started


def continuously(model: Any, asks: list[Ask], sizes: dict[str, Any]) -> int:
    """All requests by transformers' continuous batching; how many new tokens."""
    generation = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=NO_END
    )
    found: dict[str, int] = {}
    with model.continuous_batching_context_manager(
        generation_config=generation,
        continuous_batching_config=ContinuousBatchingConfig(**sizes),
        block=True,
    ) as manager:
        for ask in asks:
            manager.add_request(ask.ids, max_new_tokens=ask.new, eos_token_id=NO_END)
        while len(found) < len(asks) and manager.is_running():
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                found[result.request_id] = len(result.generated_tokens)
    return sum(found.values())


class Transformers:
    """The model as transformers runs it: one by one, padded, continuously batched."""

    def __init__(self, path: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32
        )
        self._attention = self._model.config._attn_implementation

    def ids(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return list(self.tokenizer(text)["input_ids"])

    def sequential(self, asks: Iterable[Ask]) -> list[str]:
        """``generate()`` for each request by itself."""
        return [self._padded([ask])[0] for ask in asks]

    def static(self, asks: list[Ask], size: int) -> list[str]:
        """``generate()`` for ``size`` padded requests at a time."""
        batches = (asks[at : at + size] for at in range(0, len(asks), size))
        return [text for batch in batches for text in self._padded(batch)]

    def batched(self, asks: list[Ask], slots: int) -> int:
        """transformers' continuous batching, all requests at once; its new tokens.

        What ``generate_batch`` does, with a length of its own for every answer.
        """
        pages = sum((len(ask.ids) + ask.new) // PAGE + 2 for ask in asks)
        made = continuously(
            self._model,
            asks,
            {
                "page_size": PAGE,
                "num_blocks": pages,
                "max_batch_tokens": CPU_BUDGET + slots,
                "max_requests_per_batch": slots,
            },
        )
        self._model.set_attn_implementation(self._attention)
        return made

    def _padded(self, asks: list[Ask]) -> list[str]:
        width = max(len(ask.ids) for ask in asks)
        ids = torch.zeros(len(asks), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, ask in enumerate(asks):
            ids[row, width - len(ask.ids) :] = torch.tensor(ask.ids)
            mask[row, width - len(ask.ids) :] = 1
        out = self._model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max(ask.new for ask in asks),
            do_sample=False,
            eos_token_id=NO_END,
            pad_token_id=0,
        )
        answers = zip(out[:, width:].tolist(), asks, strict=True)
        return [
            str(self.tokenizer.decode(row[: ask.new], skip_special_tokens=True))
            for row, ask in answers
        ]


class Packed:
    """The engine, stepped in this process, and its own forward passes alone."""

    def __init__(
        self, path: Path, spec: ModelSpec, *, slots: int, context: int
    ) -> None:
        self.slots = slots
        load = Load(
            spec=spec,
            quant=spec.quants[0],
            path=str(path),
            slots=slots,
            context=context,
            waiting=1000,
            budget=CPU_BUDGET,
            device="cpu",
            threads=1,
        )
        self._backend = _loaded(load, EngineLimits.of(load))
        self._model: Any = self._backend._runner._model
        self._number = 0

        self._passes: list[dict[str, Any]] = []
        forward = self._model.forward

        def record(**said: Any) -> object:
            self._passes.append(said)
            return forward(**said)

        self._model.forward = record

    def serve(self, asks: list[Ask], scope: str) -> list[str]:
        """All requests at once; their texts, in order."""
        self._passes.clear()
        texts = {self._submit(ask, scope): "" for ask in asks}
        while self._backend.is_busy:
            for event in self._backend.step():
                if isinstance(event, Piece):
                    texts[event.id] += event.text
                elif event.fault is not None:
                    raise SystemExit(event.fault.message)
        return list(texts.values())

    def passes(self) -> None:
        """The forward passes of the last `serve` once more, and nothing else."""
        for said in tuple(self._passes):
            layout: Layout = said["layout"]
            layout.masks.clear()
            layout.parts.clear()
            self._model(**said)

    def _submit(self, ask: Ask, scope: str) -> str:
        self._number += 1
        name = str(self._number)
        request = EngineRequest(
            id=name,
            scope=scope,
            work_class=WorkClass.BATCH,
            sampling=Sampling(max_tokens=ask.new, ignore_eos=True),
            deadline_s=3600.0,
            prompt=ask.prompt,
        )
        self._backend.submit(request)
        return name


def _loaded(load: Load, room: EngineLimits) -> PackedBackend:
    backend: Backend
    backend, _ = ENGINE.load(load, room, main.verified(load), lambda *_: None)
    if not isinstance(backend, PackedBackend):
        raise SystemExit(f"{room.model} is not served by the packed engine")
    return backend
