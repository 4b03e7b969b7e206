"""Linear layers laid out for the CPU: most of a step is their matrix products.

torch multiplies float32 by MKL with the weights as they lie. oneDNN, also part of
torch, takes them blocked beforehand and is 1.4 to 2 times faster for the 2 to 150
rows of a step (measured on AVX2). The ops are private names of torch, those that its
own compiler emits when it freezes a model; without them a model stays as it is.
"""

from typing import cast

import torch
from torch import Tensor, nn

ROWS = 128
"""How many rows the blocks are chosen for; fewer rows profit as well."""


def can_pack() -> bool:
    """True if this torch has what it takes."""
    ops = torch.ops.mkldnn
    is_here = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    names = ("_linear_pointwise", "_reorder_linear_weight")
    return bool(is_here) and all(hasattr(ops, name) for name in names)


class BlockedLinear(nn.Module):
    """The same linear layer over blocked weights; they cannot be turned back."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features = plain.in_features
        self.out_features = plain.out_features
        self.weight = torch.ops.mkldnn._reorder_linear_weight(plain.weight.data, ROWS)
        bias = cast("Tensor | None", plain.bias)
        self.bias = None if bias is None else bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """``[…, in_features]`` to ``[…, out_features]``."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self.weight, self.bias, "none", [], ""
        )
        return result


def block_weights(model: nn.Module) -> int:
    """Block every float32 linear layer on the CPU; how many there were.

    Each layer's own weights are let go before the next one's turn, so the model
    never takes twice its memory. One shared with an embedding stays there too.
    """
    if not can_pack():
        return 0
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if is_plain(child)
    ]
    count = len(found)
    while found:
        parent, name, child = found.pop()
        setattr(parent, name, BlockedLinear(cast("nn.Linear", child)))
    return count


def is_plain(module: nn.Module) -> bool:
    """True for a float32 linear layer on the CPU, and for no subclass of one."""
    kind: type[nn.Module] = type(module)
    if kind is not nn.Linear:
        return False
    weight = cast("Tensor", module.weight)
    return weight.device.type == "cpu" and weight.dtype == torch.float32
