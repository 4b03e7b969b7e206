"""The weights of a transformers model, read onto its device and checked there."""

import resource
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from genie import logs
from workers.engine.errors import load_failed
from workers.engine.protocol import Load
from workers.engine.torch import PACKED_DTYPES, PLAIN_DTYPES

LoadingReport = Mapping[str, Iterable[object]]
"""What transformers says of a load: names of weights by kind of trouble."""

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PLAIN_DTYPES}
"""What a quant may say it computes in, but for packed weights."""


def prepare(threads: int) -> None:
    """Set up torch and transformers in a process that serves one model."""
    logs.configure()  # a child's stdout is nobody's: what it says belongs on stderr
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def read_model(
    auto: Any, load: Load, dtype: torch.dtype, **more: object
) -> tuple[PreTrainedModel, LoadingReport]:
    """A model's weights on its device, read by one of transformers' Auto classes.

    Raises LoadFailed where they do not fit.
    """
    loaded: Any = auto.from_pretrained(
        load.path,
        dtype=dtype,
        device_map=device_map(load.device_kind),
        # Said explicitly: left open, transformers asks on stdin.
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **more,
    )
    model, report = cast("tuple[PreTrainedModel, LoadingReport]", loaded)
    check_placement(load.spec.id, model)
    return model, report


def read_tokenizer(load: Load) -> PreTrainedTokenizerBase:
    """The model's tokenizer."""
    found = AutoTokenizer.from_pretrained(load.path, trust_remote_code=False)
    return cast("PreTrainedTokenizerBase", found)


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
    if load.quant.dtype == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    if load.quant.dtype != "nf4":
        return None
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _check_packed(load: Load) -> None:
    what = f"{load.spec.id} as {load.quant.name} ({load.quant.dtype})"
    if load.device_kind != "cuda":
        message = f"{what} runs on an NVIDIA GPU only; choose a float quant here"
        raise load_failed("unsupported_quant", message)
    if find_spec("bitsandbytes") is None:
        message = (
            f"{what} needs bitsandbytes, which is not installed here; run pip install "
            "bitsandbytes in the worker's environment, or choose another quant"
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


def peak_bytes(device: torch.device) -> int:
    """Device memory reserved at most, or resident memory on a CPU."""
    if device.type == "cuda":
        devices = range(torch.cuda.device_count())
        return sum(torch.cuda.max_memory_reserved(one) for one in devices)
    # Linux counts the peak in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


ROWS = 128
"""How many rows the blocks are chosen for; fewer rows profit as well."""


def can_pack() -> bool:
    """True if this torch has what blocking needs."""
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

    The plain weights of a block are let go before the next one's turn, so the model
    never takes twice its memory. Those shared with an embedding stay there too.
    """
    count = 0
    if not can_pack():
        return count
    for parent in model.modules():
        for name, child in tuple(parent.named_children()):
            if is_plain(child):
                setattr(parent, name, BlockedLinear(child))
                count += 1
    return count


def is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """True for a float32 linear layer on the CPU, and for no subclass of one."""
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
    )
