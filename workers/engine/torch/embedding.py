"""Texts to vectors: an encoder that serves many requests at once, batched by length.

To the scheduler one input of a request is one token of its prompt: requests share
the steps as generations do, and a long one never holds up a short one.
"""

import base64
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, PreTrainedModel

from genie.contracts.fleet import LoadStage
from genie.contracts.inference import AnswerExtras, Fault, FinishReason
from workers.engine.child.backend import (
    Backend,
    EngineClock,
    EngineLimits,
    PreparedPrompt,
)
from workers.engine.child.scheduler import ForwardPass
from workers.engine.child.scheduler import Sequence as Running
from workers.engine.errors import load_failed, refused
from workers.engine.protocol import (
    EngineRequest,
    Load,
    OnLoadProgress,
)
from workers.engine.torch import loading

STEP_INPUTS = 32
"""Inputs of one step: other requests and cancels get their turn after so many."""

BATCH_TOKENS = 4096
"""Tokens of one forward pass, padding included."""

OUTCOME_BYTES = 900_000
"""What the vectors of one request may take on their way back, in base64."""

UNLIMITED = 2**30
EmbeddingInput = tuple[Running, int]
"""One input: the request it is of, and its number there."""

POOLINGS = ("mean", "cls")
SAMPLES = (
    "A short one.",
    "The fleet takes work and answers it, one after another. " * 4,
)


@dataclass(frozen=True, slots=True)
class RunningEmbedding:
    """A request in work: token ids of its inputs, and the vectors found so far."""

    inputs: list[list[int]]
    vectors: dict[int, str]


class Encoder:
    """An encoder model, its tokenizer and how token states become one vector."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, pooling: str) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._is_mean = pooling == "mean"
        self.device = model.device
        self.width = int(model.config.hidden_size)

    def tokens(self, text: str) -> list[int]:
        """Token ids with the model's frame; markers inside a text stay text."""
        encoded = self._tokenizer(text, split_special_tokens=True)
        return [int(token) for token in encoded["input_ids"]]

    @torch.no_grad()
    def vectors(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        """``[inputs, width]`` of length 1, in float32, padded to the longest input."""
        rows = [torch.tensor(one, dtype=torch.long) for one in inputs]
        ids = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        mask = mask.to(self.device)
        output = self._model(input_ids=ids.to(self.device), attention_mask=mask)
        states: Tensor = output.last_hidden_state.float()
        pooled = _mean(states, mask) if self._is_mean else states[:, 0]
        return functional.normalize(pooled, dim=-1).cpu()


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    seen = mask[:, :, None].float()
    return (states * seen).sum(dim=1) / seen.sum(dim=1)


class EmbeddingBackend(Backend):
    """Serves an encoder; ``room.context`` is the most tokens one input may have."""

    yields = False  # a request is a few steps long, and its vectors are no tokens

    def __init__(
        self, room: EngineLimits, clock: EngineClock, encoder: Encoder
    ) -> None:
        # The scheduler counts inputs, and of those a request may have any number.
        counted = replace(room, context=UNLIMITED, budget=STEP_INPUTS)
        super().__init__(counted, clock)
        self._context = room.context
        self._encoder = encoder
        self._requests: dict[str, RunningEmbedding] = {}

    def prepare(self, request: EngineRequest) -> PreparedPrompt:
        """Tokenise the inputs; raises RequestRefused naming one that is too long."""
        if not request.inputs:
            message = f"{self.room.model} only embeds; use /v1/embeddings with input"
            raise refused("invalid_request", message, "input")
        self._check_size(len(request.inputs))
        inputs = [self._tokens(n, text) for n, text in enumerate(request.inputs)]
        self._requests[request.id] = RunningEmbedding(inputs, {})
        tokens = sum(map(len, inputs))
        return PreparedPrompt(len(inputs), 1, counted=tokens)

    def advance(self, step: ForwardPass) -> None:
        """Embed this step's inputs, those of like length together."""
        asked = [
            (chunk.sequence, index)
            for chunk in step.chunks
            for index in range(chunk.start, chunk.start + chunk.length)
        ]
        self.scheduler.done(step)
        for batch in batches(asked, lambda one: len(self._ids(one))):
            self._embed(batch)
        for chunk in step.chunks:
            found = self._requests.get(chunk.sequence.id)
            if chunk.completes and found is not None:
                vectors = tuple(found.vectors[n] for n in sorted(found.vectors))
                extras = AnswerExtras(vectors=vectors)
                self.finish(chunk.sequence, FinishReason.STOP, extras=extras)

    def forget(self, request_id: str) -> None:
        """Drop the inputs of a request that has ended."""
        self._requests.pop(request_id, None)

    def peak_bytes(self) -> int:
        """Device memory reserved at most, or resident memory on a CPU."""
        return loading.peak_bytes(self._encoder.device)

    def _check_size(self, inputs: int) -> None:
        # base64 writes three bytes as four characters.
        most = OUTCOME_BYTES // (self._encoder.width * 4 * 4 // 3 + 4)
        if inputs > most:
            message = (
                f"input has {inputs} texts; {self.room.model} embeds at most {most} "
                "in one request; send the rest in another"
            )
            raise refused("invalid_request", message, "input")

    def _tokens(self, number: int, text: str) -> list[int]:
        tokens = self._encoder.tokens(text)
        if len(tokens) > self._context:
            param = f"input[{number}]"
            message = (
                f"{param} has {len(tokens)} tokens; {self.room.model} reads at most "
                f"{self._context}; split it"
            )
            raise refused("context_length_exceeded", message, param)
        return tokens

    def _ids(self, one: EmbeddingInput) -> list[int]:
        sequence, index = one
        return self._requests[sequence.id].inputs[index]

    def _embed(self, batch: list[EmbeddingInput]) -> None:
        batch = [one for one in batch if one[0].id in self._requests]
        if not batch:
            return
        try:
            vectors = self._encoder.vectors([self._ids(one) for one in batch])
            if not bool(torch.isfinite(vectors).all()):
                raise ValueError("the vector is not finite")
        except torch.AcceleratorError:
            raise
        # The border of serving a request, as in `workers.engine.torch.packed`.
        except Exception as error:  # noqa: BLE001
            self._find_culprit(batch, error)
            return
        for (sequence, index), vector in zip(batch, vectors, strict=True):
            self._requests[sequence.id].vectors[index] = encode_vector(vector)

    def _find_culprit(self, batch: list[EmbeddingInput], error: Exception) -> None:
        if len(batch) > 1:
            for one in batch:
                self._embed([one])
            return
        message = f"the model failed on this input: {type(error).__name__}: {error}"
        fault = Fault(code="engine_error", message=message[:500])
        self.finish(batch[0][0], FinishReason.ERROR, fault=fault)


def batches(
    asked: Iterable[EmbeddingInput], length: Callable[[EmbeddingInput], int]
) -> Iterator[list[EmbeddingInput]]:
    """Inputs of like length together, each batch within `BATCH_TOKENS` when padded."""
    batch: list[EmbeddingInput] = []
    # Longest first: the first of a batch says how wide the others are padded.
    for one in sorted(asked, key=length, reverse=True):
        if batch and length(batch[0]) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def encode_vector(vector: Tensor) -> str:
    """A vector as it travels: little-endian float32 in base64."""
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode("ascii")


def build(
    load: Load, limits: EngineLimits, progress: OnLoadProgress
) -> tuple[Backend, str]:
    """Load, check and self-test an encoder, which has no chat template.

    Raises LoadFailed with the reason.
    """
    progress(0.3, LoadStage.READING)
    encoder = load_encoder(load)
    progress(0.9, LoadStage.TESTING)
    self_test(encoder, load.spec.id, load.context)
    return EmbeddingBackend(limits, time.monotonic, encoder), ""


def load_encoder(load: Load) -> Encoder:
    """The encoder with all of its weights; raises LoadFailed."""
    if load.spec.pooling not in POOLINGS:
        message = (
            f"{load.spec.id} pools by {load.spec.pooling}; this engine knows mean, cls"
        )
        raise load_failed("unsupported_pooling", message)
    dtype = loading.plain_dtype_of(load)
    model, report = loading.read_model(AutoModel, load, dtype)
    # The pooler belongs to another use of the same weights; no vector passes it.
    used = {
        kind: [name for name in names if not str(name).startswith("pooler.")]
        for kind, names in report.items()
        if kind in ("missing_keys", "mismatched_keys")
    }
    loading.check_weights(load.spec.id, used)
    return Encoder(model, loading.read_tokenizer(load), load.spec.pooling)


def self_test(encoder: Encoder, model_id: str, window: int) -> None:
    """Refuse an encoder that reads one way only, or whose padding leaks."""
    short, long = (encoder.tokens(text)[:window] for text in SAMPLES)
    alone = encoder.vectors([short])[0]
    if not bool(torch.isfinite(alone).all()):
        message = f"{model_id} computes values that are not finite; pull it again"
        raise load_failed("bad_weights", message)
    if float(alone @ encoder.vectors([short, long])[0]) < 0.999:
        message = f"{model_id} failed its self-test: padding changes its vectors"
        raise load_failed("self_test_failed", message)
    if reads_one_way(encoder, long):
        message = (
            f"{model_id} reads one way only, as models that write do; this engine "
            "embeds with models that read both ways"
        )
        raise load_failed("unsupported_architecture", message)


@torch.no_grad()
def reads_one_way(encoder: Encoder, tokens: list[int]) -> bool:
    """True when the first token's state does not depend on what follows it."""
    first = [
        encoder._model(input_ids=torch.tensor([ids], device=encoder.device))
        for ids in (tokens, tokens[: len(tokens) // 2])
    ]
    whole, half = (out.last_hidden_state[0, 0].float() for out in first)
    return bool(torch.allclose(whole, half, atol=1e-4))
