"""Attention of decoding tokens on a GPU: each reads its own slot as far as it is used.

torch's fused kernels take no length of a sequence from the device: they read what a
mask then rules out, and a captured graph could not grow with its sequences. Here the
lengths are read where they lie. The keys of a sequence are cut into parts that are
computed side by side and joined (flash decoding), so that few sequences fill a GPU.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.engine.torch.layout import parts_of

BLOCK = 64
"""Keys that one program takes at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelOptions:
    """What a layer adds to plain attention; ``sinks`` has one score a head."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


def decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    slots: Tensor,
    lengths: Tensor,
    look: KernelOptions,
) -> Tensor:
    """``[n, heads, d]`` of ``query`` over each one's slot, as ``[n, heads, d_v]``.

    ``keys`` and ``values`` are ``[slots, kv_heads, length, d]``; ``slots`` and
    ``lengths`` (at least 1) are whole numbers ``[n]`` on the same device. Nothing here
    waits for the device, so that a graph can be captured of it.
    """
    count, heads, width = query.shape
    kv_heads, room = keys.shape[1], keys.shape[2]
    value_width = values.shape[3]
    parts = parts_of(count * kv_heads, -(-room // BLOCK))
    mixed = query.new_empty((count, heads, parts, value_width), dtype=torch.float32)
    weights = query.new_empty((count, heads, parts, 2), dtype=torch.float32)
    _read[(count, kv_heads, parts)](
        query,
        keys,
        values,
        slots,
        lengths,
        mixed,
        weights,
        look.scale,
        look.softcap or 0.0,
        query.stride(0),
        query.stride(1),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        values.stride(0),
        values.stride(1),
        values.stride(2),
        PART=-(-room // (parts * BLOCK)) * BLOCK,
        PARTS=parts,
        HEADS=heads,
        GROUPS=heads // kv_heads,
        WIDTH=width,
        VALUE_WIDTH=value_width,
        WINDOW=look.window or 0,
        HAS_CAP=look.softcap is not None,
        IS_PRECISE=query.dtype == torch.float32,
        ROWS=max(16, triton.next_power_of_2(heads // kv_heads)),
        D=max(16, triton.next_power_of_2(width)),
        DV=max(16, triton.next_power_of_2(value_width)),
        BLOCK=BLOCK,
    )
    out = query.new_empty((count, heads, value_width))
    _join[(count, heads)](
        mixed,
        weights,
        out if look.sinks is None else look.sinks,
        out,
        PARTS=parts,
        P=triton.next_power_of_2(parts),
        HEADS=heads,
        VALUE_WIDTH=value_width,
        DV=triton.next_power_of_2(value_width),
        HAS_SINKS=look.sinks is not None,
    )
    return out


def try_out(device: torch.device) -> None:
    """Compile and run it once on little; raises what keeps it from running here."""
    cache = torch.zeros(1, 1, BLOCK, 16, device=device)
    row = torch.zeros(1, dtype=torch.long, device=device)
    decode(
        cache[:, :, 0],
        cache,
        cache,
        slots=row,
        lengths=row + 1,
        look=KernelOptions(scale=1.0),
    )
    torch.cuda.synchronize(device)


@triton.jit
def _read(  # noqa: PLR0913, PLR0915, PLR0917 - a kernel is one call, and one flow
    query,
    keys,
    values,
    slots,
    lengths,
    mixed,
    weights,
    scale,
    softcap,
    query_row,
    query_head,
    key_slot,
    key_head,
    key_place,
    value_slot,
    value_head,
    value_place,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr,
    IS_PRECISE: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One part of one sequence's keys, for the query heads of one key head."""
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(slots + row).to(tl.int64)
    length = tl.load(lengths + row).to(tl.int32)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    low = tl.maximum(part * PART, (first // BLOCK) * BLOCK)
    high = tl.minimum(part * PART + PART, length)

    lanes, wide, wide_v = tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, DV)
    places = tl.arange(0, BLOCK)
    head = kv_head * GROUPS + lanes
    asked = tl.load(
        query + row * query_row + head[:, None] * query_head + wide[None, :],
        mask=(lanes[:, None] < GROUPS) & (wide[None, :] < WIDTH),
        other=0.0,
    )
    key_base = keys + slot * key_slot + kv_head * key_head
    value_base = values + slot * value_slot + kv_head * value_head
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, DV], tl.float32)
    for start in range(low, high, BLOCK):
        place = start + places
        is_seen = (place < high) & (place >= first)
        key = tl.load(
            key_base + place[None, :] * key_place + wide[:, None],
            mask=is_seen[None, :] & (wide[:, None] < WIDTH),
            other=0.0,
        )
        if IS_PRECISE:
            scores = tl.dot(asked, key, input_precision="ieee") * scale
        else:
            scores = tl.dot(asked, key) * scale
        if HAS_CAP:
            scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        top = tl.maximum(best, tl.max(scores, 1))
        # A block before the window's begin has nothing to see, and no top.
        safe = tl.where(top == float("-inf"), 0.0, top)
        odds = tl.exp(scores - safe[:, None])
        fade = tl.exp(best - safe)
        value = tl.load(
            value_base + place[:, None] * value_place + wide_v[None, :],
            mask=is_seen[:, None] & (wide_v[None, :] < VALUE_WIDTH),
            other=0.0,
        )
        total = total * fade + tl.sum(odds, 1)
        if IS_PRECISE:
            sums = sums * fade[:, None] + tl.dot(odds, value, input_precision="ieee")
        else:
            sums = sums * fade[:, None] + tl.dot(odds.to(value.dtype), value)
        best = top

    at = (row * HEADS + head) * PARTS + part
    is_mine = lanes < GROUPS
    tl.store(
        mixed + at[:, None] * VALUE_WIDTH + wide_v[None, :],
        sums,
        mask=is_mine[:, None] & (wide_v[None, :] < VALUE_WIDTH),
    )
    tl.store(weights + at * 2, best, mask=is_mine)
    tl.store(weights + at * 2 + 1, total, mask=is_mine)


@triton.jit
def _join(  # noqa: PLR0913, PLR0917 - a kernel's arguments are its call
    mixed,
    weights,
    sinks,
    out,
    PARTS: tl.constexpr,
    P: tl.constexpr,
    HEADS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    DV: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """The parts of one sequence and head, weighed and added."""
    row, head = tl.program_id(0), tl.program_id(1)
    at = (row * HEADS + head) * PARTS
    parts, wide = tl.arange(0, P), tl.arange(0, DV)
    is_part = parts < PARTS
    best = tl.load(weights + (at + parts) * 2, mask=is_part, other=float("-inf"))
    total = tl.load(weights + (at + parts) * 2 + 1, mask=is_part, other=0.0)
    # A sink takes part in the softmax and gives nothing to the sum.
    sink = float("-inf")
    if HAS_SINKS:
        sink = tl.load(sinks + head).to(tl.float32)
    top = tl.maximum(tl.max(best, 0), sink)
    odds = tl.exp(best - top)
    whole = tl.sum(odds * total, 0) + tl.exp(sink - top)
    sums = tl.load(
        mixed + (at + parts)[:, None] * VALUE_WIDTH + wide[None, :],
        mask=is_part[:, None] & (wide[None, :] < VALUE_WIDTH),
        other=0.0,
    )
    found = tl.sum(sums * odds[:, None], 0) / whole
    tl.store(
        out + (row * HEADS + head) * VALUE_WIDTH + wide,
        found.to(out.dtype.element_ty),
        mask=wide < VALUE_WIDTH,
    )
