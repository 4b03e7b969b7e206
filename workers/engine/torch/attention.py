"""The attention over the slot KV cache, as transformers' models call it.

Registered through transformers' `AttentionInterface`; the layout of a step reaches
`slot_attention` as the extra keyword argument ``layout`` of the model's forward.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from genie import logs
from workers.engine.torch.layout import AttentionOptions, DecodePart, Layout

log = logs.logger("engine")

NAME = "genie_slots"


class LayoutNotPassed(Exception):
    """A model does not hand the step's layout down to its attention."""


def has_kernel(device: torch.device) -> bool:
    """True if decoding tokens can be attended to by one kernel of ours there.

    triton comes with torch for CUDA, compiles for the GPU that is there and needs a C
    compiler on the machine: without one the kernels of torch do it, more slowly.
    """
    if device.type != "cuda":
        return False
    try:
        from workers.engine.torch import kernels

        kernels.try_out(device)
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever keeps it from compiling here
        log.warning("no_decode_kernel", reason=f"{type(error).__name__}: {error}"[:200])
        return False
    return True


def slot_attention(  # noqa: PLR0913 - the signature transformers calls
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of packed ``[1, heads, tokens, head_dim]`` over the slots' cache."""
    if layout is None:
        raise LayoutNotPassed(type(module).__name__)
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # a plain number
    layout = layout.on(query.device)
    layout.cache.windows.setdefault(layer, sliding_window)
    layout.cache.write(layer, key, value, layout)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kind = AttentionOptions(scale, sliding_window, softcap, s_aux)
    count = len(layout.decoding)
    parts = []
    if count:
        parts += _decode(query[0, :, :count], layer, layout, kind)
    for index, chunk in enumerate(layout.chunks):
        rows = query[0, :, chunk.row : chunk.row + chunk.length]
        parts.append(_prefill(rows, layer, layout, index, kind))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole[None], None


def _decode(
    query: Tensor, layer: int, layout: Layout, kind: AttentionOptions
) -> list[Tensor]:
    """One token a sequence: ``[heads, n, d]`` to parts of ``[n, heads, d]``."""
    keys, values = layout.cache.read(layer)
    if layout.lengths is not None:
        # triton comes with torch for CUDA only.
        from workers.engine.torch import kernels

        rows, slots, lengths = query.transpose(0, 1), layout.slots, layout.lengths
        return [
            kernels.decode(
                rows, keys, values, slots=slots, lengths=lengths, options=kind
            )
        ]
    kv_heads = keys.shape[1]
    heads, count, width = query.shape
    # Query heads that share a key/value head become rows of one small matrix.
    grouped = query.transpose(0, 1).reshape(count, kv_heads, heads // kv_heads, width)
    key_bytes = kv_heads * (width + values.shape[3]) * keys.element_size()
    return [
        _decode_part(grouped, layer, layout, part, kind)
        for part in layout.decode_parts(key_bytes)
    ]


def _decode_part(
    grouped: Tensor,
    layer: int,
    layout: Layout,
    part: DecodePart,
    kind: AttentionOptions,
) -> Tensor:
    """Some rows of ``[n, kv_heads, groups, d]`` over the slots of their span."""
    span = part.span
    keys, values = layout.cache.read(layer)
    keys = keys[span.low : span.high, :, : span.reach]
    values = values[span.low : span.high, :, : span.reach]
    rows = grouped[span.first : span.end]
    if part.at is not None:
        rows = rows.new_zeros(len(keys), *rows.shape[1:]).index_copy_(0, part.at, rows)
    mask = layout.decode_mask(part, kind.window, rows.dtype)
    sinks = None if kind.sinks is None else kind.sinks.view(1, rows.shape[1], -1, 1)
    out = _attend(rows, keys, values, mask, kind, sinks)
    if part.at is not None:
        out = out[part.at]
    return out.reshape(span.end - span.first, -1, out.shape[-1])


def _prefill(
    query: Tensor, layer: int, layout: Layout, index: int, kind: AttentionOptions
) -> Tensor:
    """One prompt chunk: ``[heads, n, d]`` to ``[n, heads, d]``."""
    chunk = layout.chunks[index]
    keys, values = layout.cache.read(layer)
    end = chunk.start + chunk.length
    heads, count, width = query.shape
    kv_heads = keys.shape[1]
    groups = heads // kv_heads
    keys = keys[chunk.slot, :, None, :end].expand(-1, groups, -1, -1)
    values = values[chunk.slot, :, None, :end].expand(-1, groups, -1, -1)
    grouped = query.reshape(kv_heads, groups, count, width)
    mask = layout.chunk_mask(index, kind.window, query.dtype)
    sinks = None if kind.sinks is None else kind.sinks.view(kv_heads, groups, 1, 1)
    out = _attend(grouped, keys, values, mask, kind, sinks, is_causal=mask is None)
    return out.reshape(heads, count, -1).transpose(0, 1)


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    kind: AttentionOptions,
    sinks: Tensor | None,
    *,
    is_causal: bool = False,
) -> Tensor:
    """Attention of ``[batch, heads, n, d]``.

    A token sees the keys that ``mask`` leaves; without one the earlier ones if
    ``is_causal``, else all.
    """
    if kind.softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=mask,
            is_causal=is_causal,
            scale=kind.scale,
        )
    # By hand, for what torch's own kernel lacks: soft caps and sinks.
    scores = query @ keys.transpose(-1, -2) * kind.scale
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~later.tril(), -torch.inf)
    elif mask is not None:
        scores = scores + mask
    if sinks is not None:
        # A sink takes part in the softmax and gives nothing to the sum.
        column = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = functional.softmax(scores.float(), dim=-1).to(query.dtype)
    return weights[..., : keys.shape[-2]] @ values


AttentionInterface.register(NAME, slot_attention)
