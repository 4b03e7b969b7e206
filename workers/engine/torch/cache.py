"""The slot KV cache: keys and values of every sequence, each in a slot of its own."""

from typing import Protocol

import torch
from torch import Tensor


class TokenPositions(Protocol):
    """The slot and the place in it of each token of a step."""

    @property
    def slots(self) -> Tensor:
        """One slot a token."""

    @property
    def positions(self) -> Tensor:
        """One place a token."""

    @property
    def has_kernel(self) -> bool:
        """True if kernels of ours run on their device."""


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

    def write(self, layer: int, key: Tensor, value: Tensor, at: TokenPositions) -> None:
        """Store ``[1, kv_heads, tokens, head_dim]`` at each token's slot and place."""
        if layer not in self._layers:
            self._layers[layer] = (self._room(key), self._room(value))
        if at.has_kernel:
            from workers.engine.torch import fused

            fused.store(self._layers[layer], key, value, at.slots, at.positions)
            return
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
