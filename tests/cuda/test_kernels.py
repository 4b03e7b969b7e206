"""The engine's kernels against the same in float64, on the GPU that is here.

``make cuda`` runs them, and the engine's own tests on that GPU; a plain run has none.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from workers.engine.torch.layout import AttentionOptions

pytestmark = pytest.mark.cuda

FEW = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""How far apart, as a share: the rounding of one type."""

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def apart(found: Tensor, wanted: Tensor) -> float:
    wanted = wanted.double()
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.fixture(autouse=True)
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.fail("no NVIDIA GPU is here; `make test` runs what needs none")
    torch.manual_seed(0)


def by_hand(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    lengths: Tensor,
    options: Any,
) -> Tensor:
    """One sequence after the other, in float64."""
    found = []
    for row, (slot, length) in enumerate(
        zip(slots.tolist(), lengths.tolist(), strict=True)
    ):
        groups = query.shape[1] // keys.shape[1]
        known = keys[slot, :, :length].double().repeat_interleave(groups, 0)
        said = values[slot, :, :length].double().repeat_interleave(groups, 0)
        scores = (query[row].double()[:, None] @ known.transpose(1, 2))[:, 0]
        scores = scores * options.scale
        found.append((_odds(scores, length, options)[:, None] @ said)[:, 0])
    return torch.stack(found)


def _odds(scores: Tensor, length: int, options: Any) -> Tensor:
    if options.softcap:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if options.window and options.window < length:
        scores[:, : length - options.window] = -torch.inf
    if options.sinks is not None:
        scores = torch.cat([scores, options.sinks.double()[:, None]], 1)
    return scores.softmax(-1)[:, :length]


@DTYPES
@pytest.mark.parametrize(
    ("count", "heads", "kv_heads", "width", "room"),
    [
        (3, 4, 2, 8, 200),
        (5, 14, 2, 64, 512),
        (1, 32, 8, 128, 1000),
        (40, 8, 8, 64, 130),
    ],
)
@pytest.mark.parametrize(
    ("window", "softcap", "has_sinks"),
    [(None, None, False), (7, None, False), (100, 30.0, False), (None, None, True)],
)
def test_each_sequence_sees_its_own_slot_as_far_as_it_is_used(  # noqa: PLR0917
    dtype: torch.dtype,
    count: int,
    heads: int,
    kv_heads: int,
    width: int,
    room: int,
    window: int | None,
    softcap: float | None,
    has_sinks: bool,
) -> None:
    from workers.engine.torch import kernels

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype)

    keys, values = (random(count + 2, kv_heads, room, width) for _ in range(2))
    query = random(count, heads, width)
    slots = torch.randperm(count + 2, device="cuda")[:count]
    lengths = torch.randint(1, room + 1, (count,), device="cuda")
    lengths[0], lengths[-1] = 1, room
    options = AttentionOptions(
        scale=width**-0.5,
        window=window,
        softcap=softcap,
        sinks=random(heads) if has_sinks else None,
    )
    found = kernels.decode(
        query, keys, values, slots=slots, lengths=lengths, options=options
    )
    wanted = by_hand(query, keys, values, slots, lengths, options)
    assert apart(found, wanted) < FEW[dtype]


@DTYPES
def test_tokens_are_stored_at_their_slots_and_places(dtype: torch.dtype) -> None:
    from workers.engine.torch import kernels

    room = [torch.zeros(6, 2, 50, 64, device="cuda", dtype=dtype) for _ in range(2)]
    wanted = [one.clone() for one in room]
    new = [
        torch.randn(1, 5, 2, 64, device="cuda", dtype=dtype).transpose(1, 2)
        for _ in range(2)
    ]
    slots = torch.tensor([0, 5, 2, 2, 1], device="cuda")
    places = torch.tensor([3, 49, 0, 1, 7], device="cuda")
    kernels.store((room[0], room[1]), new[0], new[1], slots, places)
    for one, told in zip(wanted, new, strict=True):
        one[slots, :, places] = told[0].transpose(0, 1)
    assert all(map(torch.equal, room, wanted))


@DTYPES
def test_a_rotation_is_the_models_own(dtype: torch.dtype) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    from workers.engine.torch import kernels

    query, key = (
        torch.randn(1, 5, heads, 64, device="cuda", dtype=dtype).transpose(1, 2)
        for heads in (4, 2)
    )
    half = torch.randn(1, 5, 32, device="cuda")
    cos, sin = (torch.cat([one, one], -1).to(dtype) for one in (half.cos(), half.sin()))
    found = kernels.rotate(query, key, cos, sin)
    wanted = apply_rotary_pos_emb(query, key, cos, sin)
    for one, other in zip(found, wanted, strict=True):
        assert apart(one, other) < FEW[dtype]


@DTYPES
def test_a_gate_is_the_two_operations_it_stands_for(dtype: torch.dtype) -> None:
    from workers.engine.torch import kernels

    gate, up = (torch.randn(1, 5, 300, device="cuda", dtype=dtype) for _ in range(2))
    assert apart(kernels.gated(gate, up), functional.silu(gate) * up) < FEW[dtype]
