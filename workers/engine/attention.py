"""The slot KV cache and the attention over it, as transformers' models call it.

Registered through transformers' `AttentionInterface`; the layout of a step reaches
`slot_attention` as the extra keyword argument ``layout`` of the model's forward.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from workers.engine.scheduler import Step

NAME = "genie_slots"


class SlotCache:
    """Keys and values of all slots: ``[slots, kv_heads, length, head_dim]`` a layer.

    A layer's room is taken when it is first written, in the shape the model uses.
    """

    def __init__(self, *, slots: int, length: int) -> None:
        self.slots = slots
        self.length = length
        self.windows: dict[int, int | None] = {}
        """The sliding window each layer has asked for, None for all tokens."""

        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, key: Tensor, value: Tensor, at: "Layout") -> None:
        """Store ``[1, kv_heads, tokens, head_dim]`` at each token's slot and place."""
        if layer not in self._layers:
            self._layers[layer] = (self._room(key), self._room(value))
        keys, values = self._layers[layer]
        keys[at.slots, :, at.positions] = key[0].transpose(0, 1)
        values[at.slots, :, at.positions] = value[0].transpose(0, 1)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer."""
        return self._layers[layer]

    def copy(self, source: int, target: int, length: int) -> None:
        """The first ``length`` tokens of a slot, now in another one too."""
        for keys, values in self._layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def wipe(self, slot: int) -> None:
        """Zero a slot after a failure: a NaN left behind would spread by 0 x NaN."""
        for keys, values in self._layers.values():
            keys[slot].zero_()
            values[slot].zero_()

    def _room(self, like: Tensor) -> Tensor:
        _, heads, _, width = like.shape
        shape = (self.slots, heads, self.length, width)
        return torch.zeros(shape, dtype=like.dtype, device=like.device)


class Unreachable(Exception):
    """A model does not hand the step's layout down to its attention."""


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """Where one prompt chunk lies: rows of the packed step, its slot, its start."""

    row: int
    length: int
    slot: int
    start: int


@dataclass(slots=True)
class Layout:
    """How the packed tokens of one step map to the cache.

    The first ``decodes`` tokens belong to one decoding sequence each; ``span`` is
    one more than their highest slot, ``reach`` their longest length.
    """

    cache: SlotCache
    slots: Tensor
    positions: Tensor
    decodes: int
    span: int
    reach: int
    lengths: Tensor
    chunks: tuple[ChunkSpan, ...]
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)
    elsewhere: "dict[torch.device, Layout]" = field(default_factory=dict)

    def on(self, device: torch.device) -> "Layout":
        """The same layout for layers on another device."""
        if device == self.slots.device:
            return self
        if device not in self.elsewhere:
            self.elsewhere[device] = replace(
                self,
                slots=self.slots.to(device),
                positions=self.positions.to(device),
                lengths=self.lengths.to(device),
                masks={},
                elsewhere={},
            )
        return self.elsewhere[device]

    def decode_mask(self, window: int | None) -> Tensor:
        """``[span, 1, 1, reach]``: which keys each slot's token sees."""
        at = (-1, window)
        if at not in self.masks:
            keys = torch.arange(self.reach, device=self.lengths.device)
            seen = keys[None] < self.lengths[:, None]
            if window is not None:
                seen &= keys[None] >= self.lengths[:, None] - window
            self.masks[at] = seen[:, None, None]
        return self.masks[at]

    def chunk_mask(self, index: int, window: int | None) -> Tensor | None:
        """``[tokens, keys]`` of a chunk; None where plain causality is enough."""
        chunk, at = self.chunks[index], (index, window)
        end = chunk.start + chunk.length
        if chunk.start == 0 and (window is None or window >= end):
            return None
        if at not in self.masks:
            self.masks[at] = self._causal(chunk, window)
        return self.masks[at]

    def _causal(self, chunk: ChunkSpan, window: int | None) -> Tensor:
        end = chunk.start + chunk.length
        device = self.lengths.device
        query = torch.arange(chunk.start, end, device=device)[:, None]
        keys = torch.arange(end, device=device)[None]
        seen = keys <= query
        return seen if window is None else seen & (keys > query - window)


def lay_out(step: Step, cache: SlotCache, device: torch.device) -> Layout:
    """The layout of a step's tokens: decodes first, then chunk after chunk."""
    decodes = step.decodes
    slots = [one.slot for one in decodes]
    positions = [one.computed for one in decodes]
    span = max(slots, default=-1) + 1
    # Slots in the span that do not decode see one key, so no row is all masked.
    lengths = [1] * span
    for one in decodes:
        lengths[one.slot] = one.computed + 1
    chunks: list[ChunkSpan] = []
    for chunk in step.chunks:
        slot = chunk.sequence.slot
        chunks.append(ChunkSpan(len(slots), chunk.length, slot, chunk.start))
        slots += [slot] * chunk.length
        positions += range(chunk.start, chunk.start + chunk.length)
    return Layout(
        cache=cache,
        slots=torch.tensor(slots, device=device),
        positions=torch.tensor(positions, device=device),
        decodes=len(decodes),
        span=span,
        reach=max(lengths, default=0),
        lengths=torch.tensor(lengths, device=device),
        chunks=tuple(chunks),
    )


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a layer's attention adds to the plain one."""

    scale: float | None
    window: int | None
    softcap: float | None
    sinks: Tensor | None


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
        raise Unreachable(type(module).__name__)
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # a plain number
    layout = layout.on(query.device)
    layout.cache.windows.setdefault(layer, sliding_window)
    layout.cache.write(layer, key, value, layout)
    kind = _Kind(scaling, sliding_window, softcap, s_aux)
    parts = []
    if layout.decodes:
        parts.append(_decode(query[0, :, : layout.decodes], layer, layout, kind))
    for index, chunk in enumerate(layout.chunks):
        rows = query[0, :, chunk.row : chunk.row + chunk.length]
        parts.append(_prefill(rows, layer, layout, index, kind))
    return torch.cat(parts)[None], None


def _decode(query: Tensor, layer: int, layout: Layout, kind: _Kind) -> Tensor:
    """One token a sequence: ``[heads, n, d]`` to ``[n, heads, d]``."""
    keys, values = layout.cache.read(layer)
    keys = keys[: layout.span, :, : layout.reach]
    values = values[: layout.span, :, : layout.reach]
    heads, count, width = query.shape
    kv_heads = keys.shape[1]
    # Query heads that share a key/value head become rows of one small matrix.
    grouped = query.transpose(0, 1).reshape(count, kv_heads, heads // kv_heads, width)
    slots = layout.slots[:count]
    if count != layout.span:
        spread = grouped.new_zeros(layout.span, *grouped.shape[1:])
        spread[slots] = grouped
        grouped = spread
    mask = layout.decode_mask(kind.window)
    sinks = None if kind.sinks is None else kind.sinks.view(1, kv_heads, -1, 1)
    out = _attend(grouped, keys, values, mask, kind, sinks)
    if count != layout.span:
        out = out[slots]
    return out.reshape(count, heads, out.shape[-1])


def _prefill(
    query: Tensor, layer: int, layout: Layout, index: int, kind: _Kind
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
    mask = layout.chunk_mask(index, kind.window)
    sinks = None if kind.sinks is None else kind.sinks.view(kv_heads, groups, 1, 1)
    out = _attend(grouped, keys, values, mask, kind, sinks)
    return out.reshape(heads, count, -1).transpose(0, 1)


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    kind: _Kind,
    sinks: Tensor | None,
) -> Tensor:
    """Attention of ``[batch, heads, n, d]``; no mask means plain causality."""
    if kind.softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None,
            scale=kind.scale,
        )
    return _attend_plainly(query, keys, values, mask, kind, sinks)


def _attend_plainly(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    kind: _Kind,
    sinks: Tensor | None,
) -> Tensor:
    """The same by hand, for what the fused kernel lacks: soft caps and sinks."""
    scale = kind.scale if kind.scale is not None else query.shape[-1] ** -0.5
    scores = query @ keys.transpose(-1, -2) * scale
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    if mask is None:
        shape = scores.shape[-2:]
        mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        # A sink takes part in the softmax and gives nothing to the sum.
        column = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = functional.softmax(scores.float(), dim=-1).to(query.dtype)
    return weights[..., : keys.shape[-2]] @ values


AttentionInterface.register(NAME, slot_attention)
