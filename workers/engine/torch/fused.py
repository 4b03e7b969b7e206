"""The small operations between a GPU's matrix products, each as one kernel.

Written out, a norm is eight kernels and a rotation of queries and keys ten; a decoding
step of a small model waits for the start of those, not for its weights. What stands
here replaces what a model's own modules do, after both were compared on its device.
"""

import sys
from collections.abc import Callable
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn import functional

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""How far from the module's own result, as a share of it: a rounding or two."""

TensorPair = tuple[Tensor, Tensor]
"""Queries and keys."""

ROTATE = "apply_rotary_pos_emb"


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
        query: Tensor, key: Tensor, cos: Tensor, *said: Any, **named: Any
    ) -> TensorPair:
        is_whole = cos.shape[-1] == query.shape[-1] and cos.dtype == query.dtype
        if query.is_cuda and len(query) == len(said) == 1 and is_whole and not named:
            return rotate(query, key, cos, *said)
        return cast("TensorPair", own(query, key, cos, *said, **named))

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
