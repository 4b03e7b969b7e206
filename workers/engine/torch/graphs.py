"""Steps that only decode, captured once as CUDA graphs and replayed.

A pass of a small model is a thousand kernels of a few microseconds: Python needs far
longer to start them than a GPU to run them. A graph starts all of them at once. It has
fixed shapes, so there is one for each of a few numbers of rows, and its inputs lie in
one place; lengths are read on the device (`workers.engine.torch.kernels`), so that a
graph serves sequences as they grow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.engine.child.scheduler import Sequence
from workers.engine.torch.layout import Layout, SlotCache

WARM_UPS = 2
"""Passes before a capture: kernels are compiled and libraries take their workspace."""

ForwardFunction = Callable[[Layout], Tensor]
"""A step of ``n`` tokens to logits ``[n, vocabulary]``."""


@dataclass(frozen=True, slots=True)
class _CapturedGraph:
    """A captured pass, and where it leaves its logits."""

    graph: torch.cuda.CUDAGraph
    logits: Tensor


class CudaGraphs:
    """The captured passes of one model on one GPU, by number of rows."""

    def __init__(
        self, run: ForwardFunction, cache: SlotCache, device: torch.device
    ) -> None:
        self.sizes = sizes(cache.slots)
        most = self.sizes[-1]
        # Token ids, places, slots and lengths: one copy brings a step's all.
        self._inputs = torch.zeros(4, most, dtype=torch.long, device=device)
        self._staged = torch.zeros(4, most, dtype=torch.long, pin_memory=True)
        self._inputs[3] = 1
        pool = torch.cuda.graph_pool_handle()
        # The largest first: the others fit into the memory that it has taken.
        self._graphs = {
            size: _captured(run, self._bound(cache, size), pool)
            for size in reversed(self.sizes)
        }

    def forward(self, decodes: tuple[Sequence, ...]) -> Tensor:
        """Logits ``[decodes, vocabulary]``, valid until the next call."""
        size = next(one for one in self.sizes if one >= len(decodes))
        # Rows that nobody asked for do once more what the last one does.
        filled = [*decodes, *[decodes[-1]] * (size - len(decodes))]
        self._staged[:, :size] = torch.tensor(
            [
                [one.tokens[one.computed] for one in filled],
                [one.computed for one in filled],
                [one.slot for one in filled],
                [one.computed + 1 for one in filled],
            ]
        )
        # Waits until it is there: the next step fills the same staging place.
        self._inputs.copy_(self._staged)
        graph = self._graphs[size]
        graph.graph.replay()
        return graph.logits[: len(decodes)]

    def _bound(self, cache: SlotCache, size: int) -> Layout:
        ids, places, slots, lengths = self._inputs[:, :size]
        return Layout(
            cache=cache,
            ids=ids,
            slots=slots,
            positions=places,
            decoding=tuple(range(size)),
            reaches=(),
            chunks=(),
            lengths=lengths,
        )


def sizes(slots: int) -> tuple[int, ...]:
    """How many rows there are graphs for: powers of two, and all slots.

    >>> sizes(12)
    (1, 2, 4, 8, 12)
    """
    powers = (1 << exponent for exponent in range(slots.bit_length()))
    return (*(one for one in powers if one < slots), slots)


def _captured(run: ForwardFunction, layout: Layout, pool: Any) -> _CapturedGraph:
    stream = torch.cuda.Stream(layout.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(layout.device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            run(layout)
    torch.cuda.current_stream(layout.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        logits = run(layout)
    return _CapturedGraph(graph, logits)
