"""Blocked weights compute the same, only sooner."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.engine.torch.loading import BlockedLinear, block_weights, can_pack

Make = Callable[..., Any]


class Pair(nn.Module):
    """Two layers, one of them a subclass that computes something of its own."""

    class Doubling(nn.Linear):
        def forward(self, rows: Tensor) -> Tensor:
            return 2 * super().forward(rows)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 40)
        self.second = Pair.Doubling(40, 8, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(rows)))
        return out


def test_this_torch_has_the_ops_that_blocking_needs() -> None:
    assert can_pack()


@pytest.mark.parametrize("rows", [1, 2, 16, 129])
@torch.no_grad()
def test_blocked_layers_compute_what_plain_ones_do(rows: int) -> None:
    torch.manual_seed(1)
    model, given = Pair(), torch.randn(1, rows, 24)
    plain = model(given)
    assert block_weights(model) == 1
    assert torch.allclose(model(given), plain, atol=1e-5)


def test_only_plain_layers_are_blocked() -> None:
    model = Pair()
    block_weights(model)
    kinds = [type(one).__name__ for one in model.children()]
    assert kinds == ["BlockedLinear", "Doubling"]


def test_halves_stay_as_they_are() -> None:
    model = Pair().to(torch.bfloat16)
    assert block_weights(model) == 0


@torch.no_grad()
def test_an_embedding_that_shares_its_weights_keeps_them() -> None:
    model = nn.ModuleDict(
        {"embed": nn.Embedding(32, 16), "head": nn.Linear(16, 32, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    rows = model["embed"](torch.arange(4))
    plain = model["head"](rows)
    block_weights(model)
    assert torch.allclose(model["head"](model["embed"](torch.arange(4))), plain)


def test_a_served_model_is_blocked(bench: Make) -> None:
    model = bench("llama").model
    plain = [one for one in model.modules() if type(one) is nn.Linear]
    blocked = [one for one in model.modules() if isinstance(one, BlockedLinear)]
    assert (len(plain), len(blocked)) == (0, 15)
