"""How much memory a model takes and how fast it can be: arithmetic from facts."""

from dataclasses import dataclass

from genie.contracts.model import Capability, ModelSpec, Quant

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "nf4": 1}
"""Bytes of one value by torch dtype name; KV caches of 4/8-bit quants stay 16-bit."""

OVERHEAD_SHARE = 0.10
OVERHEAD_BYTES = 350 * 1024**2
"""Measured: activations take about a tenth, a child 350 MiB before weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes one loaded model takes, by part."""

    weights: int
    kv_cache: int
    overhead: int

    @property
    def total(self) -> int:
        """All parts together, in bytes."""
        return self.weights + self.kv_cache + self.overhead


def kv_bytes_per_token(spec: ModelSpec, quant: Quant) -> int:
    """Bytes of keys and values one token of context takes; an encoder keeps none."""
    if Capability.EMBED in spec.capabilities:
        return 0
    width = max(2, DTYPE_BYTES.get(quant.dtype, 2))
    return 2 * spec.layers * spec.kv_heads * spec.head_dim * width


def need(spec: ModelSpec, quant: Quant, *, slots: int, context: int) -> Need:
    """Memory of ``slots`` concurrent sequences of ``context`` tokens, in bytes."""
    cache = kv_bytes_per_token(spec, quant) * slots * context
    overhead = int((quant.weight_bytes + cache) * OVERHEAD_SHARE) + OVERHEAD_BYTES
    if spec.engine == "echo":
        return Need(weights=quant.weight_bytes, kv_cache=cache, overhead=0)
    return Need(weights=quant.weight_bytes, kv_cache=cache, overhead=overhead)


def decode_tokens_per_s(quant: Quant, *, bandwidth: float) -> float:
    """Upper bound of one sequence's speed: each token reads all weights once.

    ``bandwidth`` is in bytes per second.
    """
    return bandwidth / max(1, quant.weight_bytes)
