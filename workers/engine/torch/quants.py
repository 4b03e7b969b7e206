"""Weight formats: what a quant computes in, and whether it can run here at all."""

from importlib.util import find_spec

import torch
from transformers import BitsAndBytesConfig

from workers.engine.errors import load_failed
from workers.engine.protocol import Load

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
PACKED = ("int8", "nf4")
"""Formats of bitsandbytes: weights of 8 and 4 bits, computed with in bfloat16."""


def dtype_of(load: Load) -> torch.dtype:
    """What the quant computes in; raises LoadFailed for one that cannot run here."""
    if load.quant.dtype not in PACKED:
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
    if name not in PACKED:
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
