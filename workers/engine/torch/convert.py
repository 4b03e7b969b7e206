"""Turn a GGUF file into safetensors, once: ``python -m workers.engine.torch.convert``.

A process of its own, so that the worker stays free of torch and gets its memory back.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging


def convert(source: Path, target: Path) -> None:
    """Write model, tokenizer and chat template of ``source`` into ``target``."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where, name = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(
        where, gguf_file=name, trust_remote_code=False
    )
    model = AutoModelForCausalLM.from_pretrained(
        where,
        gguf_file=name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
