"""Loads a transformers model; nothing is served that was not checked first."""

import time
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from genie import logs
from genie.contracts.fleet import LoadStage
from genie.contracts.inference import WorkClass
from genie.contracts.model import Capability, ModelSpec
from genie.fingerprint import fingerprint
from workers.engine.child.backend import Backend, EngineLimits
from workers.engine.child.scheduler import ForwardPass, PromptChunk, Sequence
from workers.engine.errors import load_failed
from workers.engine.protocol import Load, OnLoadProgress
from workers.engine.registry import VerifiedFiles
from workers.engine.torch import ENGINE, PACKED_DTYPES, PLAIN_DTYPES
from workers.engine.torch.attention import NAME, LayoutNotPassed
from workers.engine.torch.grammar import Grammars
from workers.engine.torch.graphs import CudaGraphs, DecodeRow
from workers.engine.torch.layout import SlotCache
from workers.engine.torch.packed import ModelRunner, PackedBackend
from workers.engine.torch.prompts import PromptRenderer

ROWS = 128
"""How many rows the blocks are chosen for; fewer rows profit as well."""


def can_pack() -> bool:
    """True if this torch has what it takes."""
    ops = torch.ops.mkldnn
    is_here = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    names = ("_linear_pointwise", "_reorder_linear_weight")
    return bool(is_here) and all(hasattr(ops, name) for name in names)


class BlockedLinear(nn.Module):
    """The same linear layer over blocked weights; they cannot be turned back."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features = plain.in_features
        self.out_features = plain.out_features
        self.weight = torch.ops.mkldnn._reorder_linear_weight(plain.weight.data, ROWS)
        bias = cast("Tensor | None", plain.bias)
        self.bias = None if bias is None else bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """``[…, in_features]`` to ``[…, out_features]``."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self.weight, self.bias, "none", [], ""
        )
        return result


def block_weights(model: nn.Module) -> int:
    """Block every float32 linear layer on the CPU; how many there were.

    Each layer's own weights are let go before the next one's turn, so the model
    never takes twice its memory. One shared with an embedding stays there too.
    """
    if not can_pack():
        return 0
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if is_plain(child)
    ]
    count = len(found)
    while found:
        parent, name, child = found.pop()
        setattr(parent, name, BlockedLinear(cast("nn.Linear", child)))
    return count


def is_plain(module: nn.Module) -> bool:
    """True for a float32 linear layer on the CPU, and for no subclass of one."""
    kind: type[nn.Module] = type(module)
    if kind is not nn.Linear:
        return False
    weight = cast("Tensor", module.weight)
    return weight.device.type == "cpu" and weight.dtype == torch.float32


log = logs.logger("engine")

LoadingReport = Mapping[str, Iterable[object]]
"""What transformers says of a load: names of weights by kind of trouble."""

SELF_TEST = "Hello! Please count from one to ten, and then say goodbye."
SELF_TEST_TOKENS = 4
"""After so many of its last tokens the two are compared."""

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PLAIN_DTYPES}
"""What a quant may say it computes in, but for packed weights."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.25}
"""How far apart two kernels' logits may be and still agree."""


def engine_name() -> str:
    """This engine in a fingerprint: ``transformers/major.minor``."""
    return f"transformers/{ENGINE.facts.version}"


def load(
    load: Load, limits: EngineLimits, files: VerifiedFiles, progress: OnLoadProgress
) -> tuple[Backend, str]:
    """Load, check and self-test a model; raises LoadFailed with the reason."""
    logs.configure()  # a child's stdout is nobody's: what it says belongs on stderr
    torch.set_num_threads(load.threads)
    torch.set_grad_enabled(False)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    path = Path(load.path or "")
    sources = files()
    progress(0.2, LoadStage.READING)
    model = load_model(load, path)
    progress(0.8, LoadStage.TESTING)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    prompts = PromptRenderer(tokenizer, load.spec.tool_format)
    prompts.guard()
    if load.spec.tool_format is not None:
        prompts.guard_tools()
        prompts.guard_calls()
    runner = self_tested(model, prompts, limits, load.spec.id)
    progress(1.0, LoadStage.TESTING)
    ends = end_tokens(model, prompts)
    backend = PackedBackend(
        limits,
        time.monotonic,
        runner=runner,
        prompts=prompts,
        ends=ends,
        grammars=grammars_of(load.spec, prompts, runner.vocabulary, ends),
    )
    identity = fingerprint(
        sources, load.quant, chat_template=prompts.template, engine=engine_name()
    )
    return backend, identity


def grammars_of(
    spec: ModelSpec, prompts: PromptRenderer, vocabulary: int, ends: frozenset[int]
) -> Grammars | None:
    """What holds answers to a shape, for a model that is said to be able to."""
    if not {Capability.JSON, Capability.TOOLS} & set(spec.capabilities):
        return None
    return Grammars(prompts.tokenizer, vocabulary=vocabulary, ends=ends)


def load_model(load: Load, path: Path) -> PreTrainedModel:
    """The model's weights on its device, all of them; raises LoadFailed."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype_of(load),
        quantization_config=config_of(load),
        device_map=device_map(load.device_kind),
        # Said explicitly: left open, transformers asks on stdin.
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    model, report = cast("tuple[PreTrainedModel, LoadingReport]", loaded)
    model.train(False)
    check_placement(load.spec.id, model)
    check_weights(load.spec.id, report)
    check_support(load.spec.id, model, load.context)
    return model


def dtype_of(load: Load) -> torch.dtype:
    """What the quant computes in; raises LoadFailed for one that cannot run here."""
    if load.quant.dtype not in PACKED_DTYPES:
        return plain_dtype_of(load)
    _check_packed(load)
    return torch.bfloat16


def plain_dtype_of(load: Load) -> torch.dtype:
    """The same for an engine that knows no packed weights."""
    name = load.quant.dtype
    if name not in DTYPES:
        known = ", ".join(DTYPES)
        message = f"this engine cannot compute in {name}; it knows {known}"
        raise load_failed("unsupported_quant", message)
    return DTYPES[name]


def config_of(load: Load) -> BitsAndBytesConfig | None:
    """What transformers is told of the weights; None for a plain dtype.

    Call `dtype_of` first: it refuses what cannot run.
    """
    name = load.quant.dtype
    if name not in PACKED_DTYPES:
        return None
    said: dict[str, object] = {"load_in_8bit": True}
    if name == "nf4":
        said = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": torch.bfloat16,
        }
    return BitsAndBytesConfig(**said)  # type: ignore[no-untyped-call]


def _check_packed(load: Load) -> None:
    what = f"{load.spec.id} as {load.quant.name} ({load.quant.dtype})"
    if load.device_kind != "cuda":
        message = f"{what} runs on an NVIDIA GPU only; choose a float quant here"
        raise load_failed("unsupported_quant", message)
    if find_spec("bitsandbytes") is None:
        message = (
            f"{what} needs bitsandbytes, which is not installed; "
            "pip install 'genie-fleet[bitsandbytes]', or choose another quant"
        )
        raise load_failed("unsupported_quant", message)


def device_map(device: str) -> str | dict[str, int] | None:
    """Where accelerate puts the layers: one GPU, or spread over all it may see."""
    if device != "cuda":
        return None
    return {"": 0} if torch.cuda.device_count() == 1 else "auto"


def check_placement(model_id: str, model: PreTrainedModel) -> None:
    """Refuse a model that spilled out of its GPUs: it would crawl, not serve."""
    placed: dict[str, object] = getattr(model, "hf_device_map", None) or {}
    if {"cpu", "disk"} & {str(device) for device in placed.values()}:
        message = (
            f"{model_id} does not fit its GPUs; give it more of them or a smaller quant"
        )
        raise load_failed("too_big", message)


def check_weights(model_id: str, report: LoadingReport) -> None:
    """Refuse a checkpoint with holes: transformers fills them with random weights."""
    for kind in ("missing_keys", "mismatched_keys"):
        names = sorted(str(name) for name in report.get(kind, ()))
        if names:
            message = (
                f"the files of {model_id} do not fill the model: {len(names)} "
                f"{kind.replace('_', ' ')}, first {names[0]}; pull a complete copy"
            )
            raise load_failed("incomplete_weights", message)


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
    said = getattr(model.generation_config, "eos_token_id", None)
    if said is None:
        said = prompts.end_token
    if said is None:
        return frozenset()
    return frozenset([said] if isinstance(said, int) else said)


def self_tested(
    model: PreTrainedModel, prompts: PromptRenderer, room: EngineLimits, model_id: str
) -> ModelRunner:
    """A runner that agrees with the model's plain forward; raises LoadFailed."""
    tokens = prompts.plain(SELF_TEST)[: room.context]
    expected = _plainly(model, tokens, model_id)
    model.set_attn_implementation(NAME)
    # After the plain forward: the self-test compares what serves with what was read.
    block_weights(model)
    runner = ModelRunner(model, SlotCache(slots=room.slots, length=room.context))
    if runner.has_kernel:
        from workers.engine.torch import fused

        fused.fuse(model)
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
    last = DecodeRow(tokens[-1], 0, len(tokens) - 1)
    rows = (graphs.forward([last] * size) for size in graphs.sizes)
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
    one = Sequence(
        id="self-test",
        work_class=WorkClass.INTERACTIVE,
        prompt=max(1, len(tokens) - SELF_TEST_TOKENS + 1),
        limit=SELF_TEST_TOKENS,
        deadline=0.0,
        slot=0,
    )
    found: list[Tensor] = []
    while one.computed < len(tokens):
        step = _next(one)
        logits = runner.forward(step, lambda _: tokens)
        one.computed += step.tokens
        # Copies: the next pass may leave its logits in the same place.
        found += [row.float().clone() for row in logits]
    return found


def _next(one: Sequence) -> ForwardPass:
    if one.is_decoding:
        return ForwardPass(decodes=(one,))
    length = max(1, one.prompt // 2) if one.computed == 0 else one.prompt - one.computed
    return ForwardPass(chunks=(PromptChunk(one, one.computed, length),))
