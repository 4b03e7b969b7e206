"""What a GPU computes with kernels of ours: attention of decoding tokens, and the small
operations between a model's matrix products.

torch's own kernels of attention take no length of a sequence from the device: they read
what a mask then rules out, and a captured graph could not grow with its sequences. Here
the lengths are read where they lie. The keys of a sequence are cut into parts that are
computed side by side and joined (flash decoding), so that few sequences fill a GPU.

Written out, a norm is eight kernels and a rotation of queries and keys ten; a decoding
step of a small model waits for the start of those, not for its weights. What `fuse`
puts in their place was compared with the model's own modules on its device.
"""

import sys
from collections.abc import Callable
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn import functional

from workers.engine.torch.layout import AttentionOptions, parts_of

BLOCK = 64
"""Keys that one program takes at a time."""

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""How far from the module's own result, as a share of it: a rounding or two."""

TensorPair = tuple[Tensor, Tensor]
"""Queries and keys."""

ROTATE = "apply_rotary_pos_emb"


def decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    slots: Tensor,
    lengths: Tensor,
    options: AttentionOptions,
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
        options.scale,
        options.softcap or 0.0,
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
        WINDOW=options.window or 0,
        HAS_CAP=options.softcap is not None,
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
        out if options.sinks is None else options.sinks,
        out,
        PARTS=parts,
        P=triton.next_power_of_2(parts),
        HEADS=heads,
        VALUE_WIDTH=value_width,
        DV=triton.next_power_of_2(value_width),
        HAS_SINKS=options.sinks is not None,
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
        options=AttentionOptions(1.0),
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


def fuse(model: nn.Module) -> int:
    """Replace what can be replaced, in place; how many modules and functions."""
    modules = list(model.modules())
    norms = sum(_fuse_norm(one) for one in modules)
    gates = sum(_fuse_gate(one) for one in modules)
    return norms + gates + sum(_fuse_rotation(one) for one in _rotating(modules))


def store(
    layer: tuple[Tensor, Tensor],
    key: Tensor,
    value: Tensor,
    slots: Tensor,
    places: Tensor,
) -> None:
    """Write ``[1, kv_heads, n, d]`` of keys and values to each token's slot and place
    of ``[slots, kv_heads, length, d]``."""
    _, heads, count, _ = key.shape
    for room, new in zip(layer, (key, value), strict=True):
        _store[(count, heads)](
            room,
            new,
            slots,
            places,
            room.stride(0),
            room.stride(1),
            room.stride(2),
            new.stride(1),
            new.stride(2),
            WIDTH=new.shape[3],
            D=triton.next_power_of_2(new.shape[3]),
        )


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> TensorPair:
    """Rotary embedding by halves of ``[1, heads, n, d]``; ``cos`` is ``[1, n, d]``."""
    return _rotated(query, cos, sin), _rotated(key, cos, sin)


def _rotated(of: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    _, heads, count, width = of.shape
    out = of.new_empty((1, count, heads, width)).transpose(1, 2)
    _rotate[(count, heads)](
        of,
        cos,
        sin,
        out,
        of.stride(1),
        of.stride(2),
        cos.stride(1),
        sin.stride(1),
        out.stride(1),
        out.stride(2),
        HALF=width // 2,
        D=triton.next_power_of_2(width // 2),
    )
    return out


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of two contiguous tensors of one shape."""
    out = torch.empty_like(gate)
    count = gate.numel()
    _gate[(triton.cdiv(count, 1024),)](gate, up, out, count, BLOCK=1024)
    return out


def _fuse_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    is_norm = type(module).__name__.endswith("RMSNorm") and isinstance(epsilon, float)
    if not (is_norm and isinstance(weight, Tensor) and weight.dim() == 1):
        return False

    def norm(rows: Tensor) -> Tensor:
        return functional.rms_norm(rows, weight.shape, weight, epsilon)

    rows = torch.randn(1, 3, len(weight), device=weight.device).to(weight.dtype)
    return _replace(module, norm, rows)


def _fuse_gate(module: nn.Module) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj")]
    down = getattr(module, "down_proj", None)
    if not all(type(one) is nn.Linear for one in (*parts, down)):
        return False
    gate, up = cast("list[nn.Linear]", parts)
    down = cast("nn.Linear", down)

    def forward(rows: Tensor) -> Tensor:
        return cast("Tensor", down(gated(gate(rows), up(rows))))

    rows = torch.randn(1, 3, gate.in_features, device=gate.weight.device)
    return _replace(module, forward, rows.to(gate.weight.dtype))


def _rotating(modules: list[nn.Module]) -> set[str]:
    """The files of transformers whose attention rotates."""
    homes = {type(one).__module__ for one in modules if hasattr(one, "head_dim")}
    return {home for home in homes if hasattr(sys.modules.get(home), ROTATE)}


def _fuse_rotation(home: str) -> bool:
    module = sys.modules[home]
    own = getattr(module, ROTATE)
    device = torch.device("cuda", torch.cuda.current_device())
    query, key = (torch.randn(1, 3, heads, 64, device=device) for heads in (4, 2))
    half = torch.randn(1, 3, 32, device=device)
    cos, sin = (torch.cat([one, one], dim=-1) for one in (half.cos(), half.sin()))
    query, key = query.transpose(1, 2), key.transpose(1, 2)
    try:
        wanted = own(query, key, cos, sin)
    # Whatever another signature or shape raises: it rotates in another way.
    except Exception:  # noqa: BLE001
        return False
    if not all(map(_is_close, rotate(query, key, cos, sin), wanted)):
        return False

    def either(
        query: Tensor, key: Tensor, cos: Tensor, *rest: Any, **named: Any
    ) -> TensorPair:
        is_whole = cos.shape[-1] == query.shape[-1] and cos.dtype == query.dtype
        if query.is_cuda and len(query) == len(rest) == 1 and is_whole and not named:
            return rotate(query, key, cos, *rest)
        return cast("TensorPair", own(query, key, cos, *rest, **named))

    # One child serves one model: the name in its file is this model's.
    setattr(module, ROTATE, either)
    return True


def _replace(
    module: nn.Module, forward: Callable[[Tensor], Tensor], on: Tensor
) -> bool:
    try:
        is_same = _is_close(forward(on), module(on))
    except torch.AcceleratorError:
        raise
    except Exception:  # noqa: BLE001 - it takes other arguments: leave it as it is
        return False
    if is_same:
        module.forward = forward
    return is_same


def _is_close(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    apart = (found.float() - wanted.float()).norm() / wanted.float().norm()
    return bool(apart < CLOSE[wanted.dtype])


@triton.jit
def _rotate(  # noqa: PLR0913, PLR0917 - a kernel's arguments are its call
    of,
    cos,
    sin,
    out,
    of_head,
    of_row,
    cos_row,
    sin_row,
    out_head,
    out_row,
    HALF: tl.constexpr,
    D: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    wide = tl.arange(0, D)
    is_in = wide < HALF
    source = of + head * of_head + row * of_row + wide
    left = tl.load(source, mask=is_in).to(tl.float32)
    right = tl.load(source + HALF, mask=is_in).to(tl.float32)
    cos_at, sin_at = cos + row * cos_row + wide, sin + row * sin_row + wide
    cos_l = tl.load(cos_at, mask=is_in).to(tl.float32)
    cos_r = tl.load(cos_at + HALF, mask=is_in).to(tl.float32)
    sin_l = tl.load(sin_at, mask=is_in).to(tl.float32)
    sin_r = tl.load(sin_at + HALF, mask=is_in).to(tl.float32)
    target = out + head * out_head + row * out_row + wide
    kind = out.dtype.element_ty
    tl.store(target, (left * cos_l - right * sin_l).to(kind), mask=is_in)
    tl.store(target + HALF, (right * cos_r + left * sin_r).to(kind), mask=is_in)


@triton.jit
def _store(  # noqa: PLR0913, PLR0917 - a kernel's arguments are its call
    room,
    new,
    slots,
    places,
    room_slot,
    room_head,
    room_place,
    new_head,
    new_row,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    wide = tl.arange(0, D)
    slot, place = tl.load(slots + row).to(tl.int64), tl.load(places + row).to(tl.int64)
    value = tl.load(new + head * new_head + row * new_row + wide, mask=wide < WIDTH)
    target = room + slot * room_slot + head * room_head + place * room_place + wide
    tl.store(target, value, mask=wide < WIDTH)


@triton.jit
def _gate(gate, up, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_in = at < count
    left = tl.load(gate + at, mask=is_in).to(tl.float32)
    right = tl.load(up + at, mask=is_in).to(tl.float32)
    kind = out.dtype.element_ty
    # As the model rounds between the two.
    lit = (left * tl.sigmoid(left)).to(kind).to(tl.float32)
    tl.store(out + at, (lit * right).to(kind), mask=is_in)
