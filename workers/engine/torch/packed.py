"""The engine for models that write: one forward a step over packed tokens.

The linear layers see one row of tokens without padding: one token of each decoding
sequence, then prompt chunks. `workers.engine.torch.attention` keeps the sequences
apart.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from genie import logs
from genie.contracts.fleet import LoadStage
from genie.contracts.inference import Fault, FinishReason, SampledToken, WorkClass
from genie.contracts.model import Capability
from workers.engine.child.backend import (
    Backend,
    EngineClock,
    EngineLimits,
    PreparedPrompt,
)
from workers.engine.child.scheduler import ForwardPass, PromptChunk, Sequence
from workers.engine.errors import RequestRefused, load_failed, refused
from workers.engine.protocol import EngineRequest, Load, OnLoadProgress
from workers.engine.torch import loading
from workers.engine.torch.attention import NAME, LayoutNotPassed, has_kernel
from workers.engine.torch.grammar import Grammars, guide_of
from workers.engine.torch.graphs import CudaGraphs
from workers.engine.torch.layout import Layout, SlotCache, lay_out
from workers.engine.torch.prompts import PromptRenderer
from workers.engine.torch.sampler import (
    Sampler,
    pick_together,
    sampler_of,
    token_logprobs,
)

log = logs.logger("engine")

SELF_TEST = "Hello! Please count from one to ten, and then say goodbye."
SELF_TEST_TOKENS = 4
"""After so many of its last tokens the two are compared."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.25}
"""How far apart two kernels' logits may be and still agree."""


class ModelRunner:
    """A model, its slot cache, and the forward pass of a step."""

    def __init__(self, model: PreTrainedModel, cache: SlotCache) -> None:
        self._model = model
        self.cache = cache
        self.graphs: CudaGraphs | None = None
        weight = cast("Tensor", model.get_input_embeddings().weight)
        self.device = weight.device
        self.vocabulary = weight.shape[0]
        # One device: a kernel starts on the one that is current.
        is_one = all(one.device == self.device for one in model.parameters())
        self.has_kernel = is_one and has_kernel(self.device)

    @torch.no_grad()
    def forward(self, step: ForwardPass) -> Tensor:
        """Logits ``[rows, vocabulary]``, one for each of ``step.answering``.

        Valid until the next pass.
        """
        if self.graphs is not None and not step.chunks:
            return self.graphs.forward(step.decodes)
        layout = lay_out(step, self.cache, self.device, has_kernel=self.has_kernel)
        rows = _rows(step)
        # A step of unfinished chunks yields nothing; the model wants a row.
        keep = torch.tensor(rows or [0], device=self.device)
        return self._pass(layout, keep)[: len(rows)]

    @torch.no_grad()
    def capture(self) -> None:
        """Capture the steps that only decode, where kernels of ours run.

        Call when every layer's cache is there, and nothing runs in it.
        """
        if self.has_kernel:
            self.graphs = CudaGraphs(self._pass, self.cache, self.device)

    def _pass(self, layout: Layout, keep: Tensor | int = 0) -> Tensor:
        output = self._model(
            input_ids=layout.ids[None],
            position_ids=layout.positions[None],
            use_cache=False,
            logits_to_keep=keep,
            layout=layout,
        )
        logits: Tensor = output.logits[0]
        return logits


def _rows(step: ForwardPass) -> list[int]:
    rows = list(range(len(step.decodes)))
    end = len(rows)
    for chunk in step.chunks:
        end += chunk.length
        if chunk.completes:
            rows.append(end - 1)
    return rows


@dataclass(slots=True)
class _RunningRequest:
    """What the engine keeps of a running request."""

    sampler: Sampler
    stream: DecodeStream


class PackedBackend(Backend):
    """A transformers model that serves many requests at once.

    ``ends`` are the token ids that end an answer; ``grammars`` hold answers to a
    shape, None where the model cannot.
    """

    def __init__(
        self,
        room: EngineLimits,
        clock: EngineClock,
        *,
        runner: ModelRunner,
        prompts: PromptRenderer,
        ends: frozenset[int],
        grammars: Grammars | None = None,
    ) -> None:
        super().__init__(room, clock)
        self._runner = runner
        self._prompts = prompts
        self._ends = ends
        self._grammars = grammars
        self._requests: dict[str, _RunningRequest] = {}

    def prepare(self, request: EngineRequest) -> PreparedPrompt:
        """Tokenise the prompt; raises RequestRefused naming a field that cannot run."""
        try:
            return self._prepared(request)
        except (RequestRefused, torch.AcceleratorError):
            raise
        # The same border as `advance`: a template is a program of the model's maker.
        except Exception as error:
            message = f"the prompt could not be prepared: {type(error).__name__}"
            raise refused("engine_error", message) from error

    def _prepared(self, request: EngineRequest) -> PreparedPrompt:
        sampling, runner = request.sampling, self._runner
        tokens = self._prompts.tokens(request)
        guide = guide_of(
            request, self._grammars, self._prompts.tool_format, self._prompts.marks
        )
        is_endless = sampling.ignore_eos and guide is None
        sampler = sampler_of(
            sampling,
            tokens,
            vocabulary=runner.vocabulary,
            device=runner.device,
            ends=frozenset() if is_endless else self._ends,
        )
        sampler.guide = guide
        stream = self._prompts.stream()
        given = self._prompts.continued(request.resume)
        for token in given:  # as if they had just been chosen here
            self._prompts.text(stream, token)
            sampler.produced.append(token)
            if guide is not None:
                guide.take(token)
        ids = [*tokens, *given]
        self._requests[request.id] = _RunningRequest(sampler, stream)
        asked = sampling.max_tokens
        limit = self.room.context if asked is None else asked
        return PreparedPrompt(len(ids), max(0, limit - len(given)), ids, len(given))

    def advance(self, step: ForwardPass) -> None:
        """One forward for everyone; if it fails, one by one to find the culprit."""
        for copy in step.copies:
            self._runner.cache.copy(copy.source, copy.target, copy.length)
        try:
            logits = self._runner.forward(step)
        except torch.AcceleratorError:
            # A poisoned device context fails every later call: only a new process
            # helps, and the parent starts one.
            raise
        # The border of serving a request: whatever one input does to the model must
        # not end the others.
        except Exception:  # noqa: BLE001
            self._one_by_one(step)
            return
        self._accept(step, logits)

    def forget(self, request_id: str) -> None:
        """Drop the tokens of a request that has ended."""
        self._requests.pop(request_id, None)

    def peak_bytes(self) -> int:
        """Device memory reserved at most, or resident memory on a CPU."""
        return loading.peak_bytes(self._runner.device)

    def _one_by_one(self, step: ForwardPass) -> None:
        singles = [(one, ForwardPass(decodes=(one,))) for one in step.decodes]
        for chunk in step.chunks:
            singles.append((chunk.sequence, ForwardPass(chunks=(chunk,))))
        for sequence, single in singles:
            try:
                logits = self._runner.forward(single)
            except torch.AcceleratorError:
                raise
            # The same border: this is the culprit, and only it fails.
            except Exception as error:  # noqa: BLE001
                self._fail(sequence, error)
                continue
            self._accept(single, logits)

    def _accept(self, step: ForwardPass, logits: Tensor) -> None:
        self.scheduler.done(step)
        sequences = step.answering
        if not sequences:
            return
        best = logits.max(dim=-1)
        # Together: each list waits for the device.
        found = torch.stack((torch.isfinite(best.values).long(), best.indices))
        sound, chosen = found.tolist()
        self._sample_together(sequences, logits, chosen, sound)
        for row, sequence in enumerate(sequences):
            if sound[row]:
                self._choose(sequence, logits[row], chosen[row])
            else:
                self._fail(sequence, ValueError("the logits are not finite"))

    def _sample_together(
        self,
        sequences: tuple[Sequence, ...],
        logits: Tensor,
        chosen: list[int],
        sound: list[int],
    ) -> None:
        """Put the tokens of the plainly sampled requests into ``chosen``."""
        samplers = [self._requests[one.id].sampler for one in sequences]
        rows = [n for n, one in enumerate(samplers) if one.is_plain and sound[n]]
        if not rows:
            return
        plain = logits if len(rows) == len(logits) else logits[rows]
        tokens = pick_together(plain, [samplers[row] for row in rows])
        for row, token in zip(rows, tokens, strict=True):
            chosen[row] = token

    def _choose(self, sequence: Sequence, logits: Tensor, chosen: int) -> None:
        """``chosen`` is the likeliest token, or what was sampled with the others."""
        sampler = self._requests[sequence.id].sampler
        try:
            is_chosen = sampler.is_greedy or sampler.is_plain
            token = chosen if is_chosen else sampler.pick(logits)
            self._take(sequence, token, logits)
        except torch.AcceleratorError:
            raise
        # The same border: odd sampling or an odd token fails only its request.
        except Exception as error:  # noqa: BLE001
            self._fail(sequence, error)

    def _take(self, sequence: Sequence, token: int, logits: Tensor) -> None:
        request = self._requests[sequence.id]
        if token in request.sampler.ends:
            self.produce(sequence, "", is_end=True)
            return
        guide = request.sampler.guide
        if guide is not None:
            guide.take(token)
        text = self._prompts.text(request.stream, token)
        sequence.tokens.append(token)
        request.sampler.produced.append(token)
        choice = self._choice(request, token, logits)
        is_end = guide is not None and guide.is_complete
        self.produce(sequence, text, choice=choice, is_end=is_end)

    def _choice(
        self, request: _RunningRequest, token: int, logits: Tensor
    ) -> SampledToken | None:
        rivals = request.sampler.sampling.logprobs
        if rivals is None:
            return None
        chosen, *others = (
            self._prompts.logprob(one, value)
            for one, value in token_logprobs(logits, token, rivals)
        )
        return SampledToken(
            token=chosen.token,
            logprob=chosen.logprob,
            raw=chosen.raw,
            rivals=tuple(others),
        )

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._runner.cache.wipe(sequence.slot)
        message = f"the model failed on this request: {type(error).__name__}: {error}"
        fault = Fault(code="engine_error", message=message[:500])
        self.finish(sequence, FinishReason.ERROR, fault=fault)


def build(
    load: Load, limits: EngineLimits, progress: OnLoadProgress
) -> tuple[Backend, str]:
    """Load, check and self-test a model; returns it with its chat template.

    Raises LoadFailed with the reason.
    """
    progress(0.2, LoadStage.READING)
    model = load_model(load)
    progress(0.8, LoadStage.TESTING)
    prompts = PromptRenderer(loading.read_tokenizer(load), load.spec.tool_format)
    prompts.guard()
    runner = self_tested(model, prompts, limits)
    ends = end_tokens(model, prompts)
    grammars = None
    if {Capability.JSON, Capability.TOOLS} & set(load.spec.capabilities):
        grammars = Grammars(prompts.tokenizer, vocabulary=runner.vocabulary, ends=ends)
    backend = PackedBackend(
        limits,
        time.monotonic,
        runner=runner,
        prompts=prompts,
        ends=ends,
        grammars=grammars,
    )
    return backend, prompts.template


def load_model(load: Load) -> PreTrainedModel:
    """The model's weights on its device, all of them; raises LoadFailed."""
    dtype, config = loading.dtype_of(load), loading.config_of(load)
    model, report = loading.read_model(
        AutoModelForCausalLM, load, dtype, quantization_config=config
    )
    loading.check_weights(load.spec.id, report)
    check_support(load.spec.id, model, load.context)
    return model


def check_support(model_id: str, model: PreTrainedModel, context: int) -> None:
    """Refuse an architecture that this engine would serve wrongly."""
    name = type(model).__name__
    if not model._supports_attention_backend or model._is_stateful:
        message = f"{model_id} is a {name}, which the packed engine cannot serve"
        raise load_failed("unsupported_architecture", message)
    rope = getattr(model.config, "rope_parameters", None) or {}
    trained = rope.get("original_max_position_embeddings", context)
    # These scale positions by the longest sequence of a batch: neighbours would
    # change each other's answers.
    if rope.get("rope_type") in {"dynamic", "longrope"} and context > trained:
        message = (
            f"{model_id} stretches its positions beyond {trained} tokens; load it "
            f"with a context of at most {trained}"
        )
        raise load_failed("unsupported_context", message)


def check_layers(
    model_id: str,
    model: PreTrainedModel,
    windows: Mapping[int, int | None],
    context: int,
) -> None:
    """Refuse layers that look at other tokens than their attention was told of.

    ``windows`` is what each layer asked for. The self-test's prompt is too short to
    notice a window of thousands of tokens that only transformers' own masks know.
    """
    config = model.config
    for layer, kind in enumerate(getattr(config, "layer_types", None) or ()):
        reach = {
            "sliding_attention": getattr(config, "sliding_window", None),
            "chunked_attention": getattr(config, "attention_chunk_size", None),
        }.get(kind)
        is_told = kind == "sliding_attention" and windows.get(layer) is not None
        is_never_cut = reach is not None and context <= reach
        if kind != "full_attention" and not (is_told or is_never_cut):
            message = (
                f"{model_id} has {kind} layers, which the packed engine cannot serve "
                f"with a context of {context} tokens"
            )
            raise load_failed("unsupported_architecture", message)


def end_tokens(model: PreTrainedModel, prompts: PromptRenderer) -> frozenset[int]:
    """The ids that end an answer, as ``generate()`` would use them."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    if ends is None:
        ends = prompts.tokenizer.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def self_tested(
    model: PreTrainedModel, prompts: PromptRenderer, room: EngineLimits
) -> ModelRunner:
    """A runner that agrees with the model's plain forward; raises LoadFailed."""
    model_id = room.model
    tokens = prompts.plain(SELF_TEST)[: room.context]
    expected = _plainly(model, tokens, model_id)
    model.set_attn_implementation(NAME)
    # After the plain forward: the self-test compares what serves with what was read.
    loading.block_weights(model)
    runner = ModelRunner(model, SlotCache(slots=room.slots, length=room.context))
    if runner.has_kernel:
        from workers.engine.torch import kernels

        kernels.fuse(model)
    try:
        found = _packed(runner, tokens)
    except LayoutNotPassed as error:
        message = f"{model_id} has a {error}, which the packed engine cannot reach"
        raise load_failed("unsupported_architecture", message) from error
    check_layers(model_id, model, runner.cache.windows, room.context)
    _check_agreement(model_id, model, expected, found)
    _capture(runner, model_id)
    if runner.graphs is not None:
        _check_agreement(model_id, model, expected, _packed(runner, tokens))
        alike = _replayed(runner.graphs, tokens)
        _check_agreement(model_id, model, [expected[-1]] * len(alike), alike)
    return runner


def _check_agreement(
    model_id: str, model: PreTrainedModel, expected: list[Tensor], found: list[Tensor]
) -> None:
    tolerance = TOLERANCE[model.dtype]
    for plain, packed in zip(expected, found, strict=True):
        if float(plain.max() - plain[int(packed.argmax())]) > tolerance:
            message = (
                f"{model_id} failed its self-test: the packed engine and the plain "
                "forward pass choose different tokens; it cannot be served here"
            )
            raise load_failed("self_test_failed", message)


def _capture(runner: ModelRunner, model_id: str) -> None:
    try:
        runner.capture()
    except torch.AcceleratorError:
        raise
    # The border of a capture: what a model does that waits for the device (routing to
    # experts, packed weights) cannot be captured, and is served pass by pass.
    except Exception as error:  # noqa: BLE001
        log.warning("not_captured", model=model_id, reason=str(error)[:200])


def _replayed(graphs: CudaGraphs, tokens: list[int]) -> list[Tensor]:
    """Logits after the last token of every row of every graph."""
    last = _self_test(tokens)
    last.computed = len(tokens) - 1
    rows = (graphs.forward((last,) * size) for size in graphs.sizes)
    return [row.float().clone() for logits in rows for row in logits]


@torch.no_grad()
def _plainly(model: PreTrainedModel, tokens: list[int], model_id: str) -> list[Tensor]:
    """Logits after each of the last tokens, by the model's own forward in one pass."""
    ids = torch.tensor([tokens], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0].float()
    if not bool(torch.isfinite(logits).all()):
        message = f"{model_id} computes values that are not finite; pull it again"
        raise load_failed("bad_weights", message)
    return list(logits[-SELF_TEST_TOKENS:])


def _packed(runner: ModelRunner, tokens: list[int]) -> list[Tensor]:
    """The same logits by the engine: the prompt in two chunks, then one by one."""
    one = _self_test(tokens)
    found: list[Tensor] = []
    while one.computed < len(tokens):
        step = _next(one)
        logits = runner.forward(step)
        one.computed += step.tokens
        # Copies: the next pass may leave its logits in the same place.
        found += [row.float().clone() for row in logits]
    return found


def _self_test(tokens: list[int]) -> Sequence:
    return Sequence(
        id="self-test",
        work_class=WorkClass.INTERACTIVE,
        prompt=max(1, len(tokens) - SELF_TEST_TOKENS + 1),
        limit=SELF_TEST_TOKENS,
        deadline=0.0,
        tokens=tokens,
        slot=0,
    )


def _next(one: Sequence) -> ForwardPass:
    if one.is_decoding:
        return ForwardPass(decodes=(one,))
    length = max(1, one.prompt // 2) if one.computed == 0 else one.prompt - one.computed
    return ForwardPass(chunks=(PromptChunk(one, one.computed, length),))
