"""How the packed tokens of one step map to the slots of the cache."""

import sys
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from workers.engine.child.scheduler import ForwardPass, PromptChunk
from workers.engine.torch.cache import SlotCache
from workers.engine.torch.spans import SlotSpan, spans

CALL_BYTES = 400_000
"""Keys and values read in the time of one more attention call (measured on a CPU)."""


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """Where one prompt chunk lies: rows of the packed step, its slot, its start."""

    row: int
    length: int
    slot: int
    start: int


@dataclass(frozen=True, slots=True)
class DecodePart:
    """Decoding rows that one attention call computes.

    ``at`` are their slots counted from the span's first, None without gaps;
    ``lengths`` are the keys each slot sees, None if all see the whole reach.
    """

    span: SlotSpan
    at: Tensor | None
    lengths: Tensor | None


@dataclass(slots=True)
class Layout:
    """The tokens of one step, decodes first, then chunk after chunk.

    ``decoding`` are the slots of the first tokens, one of each decoding sequence, and
    ``reaches`` the keys each of them sees, its own included; ``lengths`` are the same
    where a kernel reads them on the device.
    """

    cache: SlotCache
    slots: Tensor
    positions: Tensor
    decoding: tuple[int, ...]
    reaches: tuple[int, ...]
    chunks: tuple[ChunkSpan, ...]
    lengths: Tensor | None = None
    masks: dict[object, Tensor] = field(default_factory=dict)
    parts: dict[int, tuple[DecodePart, ...]] = field(default_factory=dict)
    elsewhere: "dict[torch.device, Layout]" = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where this step's tensors are."""
        return self.slots.device

    @property
    def has_kernel(self) -> bool:
        """True if kernels of ours run on this device."""
        return self.lengths is not None

    def on(self, device: torch.device) -> "Layout":
        """The same layout for layers on another device."""
        if device == self.device:
            return self
        if device not in self.elsewhere:
            self.elsewhere[device] = replace(
                self,
                slots=self.slots.to(device),
                positions=self.positions.to(device),
                lengths=None if self.lengths is None else self.lengths.to(device),
                masks={},
                parts={},
                elsewhere={},
            )
        return self.elsewhere[device]

    def decode_parts(self, key_bytes: int) -> tuple[DecodePart, ...]:
        """The calls that compute the decoding rows; a key with its value has so
        many bytes in this layer."""
        # A GPU computes what it reads for nothing beside the rest of a call.
        is_cpu = self.device.type == "cpu"
        call_keys = CALL_BYTES // key_bytes if is_cpu else sys.maxsize
        if call_keys not in self.parts:
            found = spans(self.decoding, self.reaches, call_keys)
            self.parts[call_keys] = tuple(self._part(span) for span in found)
        return self.parts[call_keys]

    def decode_mask(
        self, part: DecodePart, window: int | None, dtype: torch.dtype
    ) -> Tensor | None:
        """``[slots, 1, 1, reach]``, to be added to scores; None if all is seen."""
        reach = part.span.reach
        is_cut = window is not None and window < reach
        if part.lengths is None and not is_cut:
            return None
        at = (part.span, window if is_cut else None)
        if at not in self.masks:
            ends = part.lengths
            if ends is None:
                ends = self._tensor([reach] * (part.span.high - part.span.low))
            keys = torch.arange(reach, device=self.device)[None]
            seen = keys < ends[:, None]
            if window is not None and is_cut:
                seen &= keys >= ends[:, None] - window
            self.masks[at] = _added(seen[:, None, None], dtype)
        return self.masks[at]

    def chunk_mask(
        self, index: int, window: int | None, dtype: torch.dtype
    ) -> Tensor | None:
        """``[tokens, keys]`` of a chunk, to be added to scores; None where plain
        causality is enough."""
        chunk, at = self.chunks[index], (index, window)
        end = chunk.start + chunk.length
        if chunk.start == 0 and (window is None or window >= end):
            return None
        if at not in self.masks:
            self.masks[at] = _added(self._causal(chunk, window), dtype)
        return self.masks[at]

    def _causal(self, chunk: ChunkSpan, window: int | None) -> Tensor:
        end = chunk.start + chunk.length
        query = torch.arange(chunk.start, end, device=self.device)[:, None]
        keys = torch.arange(end, device=self.device)[None]
        seen = keys <= query
        return seen if window is None else seen & (keys > query - window)

    def _part(self, span: SlotSpan) -> DecodePart:
        slots = self.decoding[span.first : span.end]
        reaches = self.reaches[span.first : span.end]
        at = [slot - span.low for slot in slots]
        lengths = None
        if min(reaches) < span.reach:
            # What a slot in a gap sees does not matter: nobody reads its row.
            seen = [span.reach] * (span.high - span.low)
            for place, reach in zip(at, reaches, strict=True):
                seen[place] = reach
            lengths = self._tensor(seen)
        return DecodePart(span, self._tensor(at) if span.has_gaps else None, lengths)

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.device)


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    # Made once a step: a mask of truth values is turned into this by every layer.
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
        ~seen, -torch.inf
    )


def lay_out(
    step: ForwardPass,
    cache: SlotCache,
    device: torch.device,
    *,
    has_kernel: bool = False,
) -> Layout:
    """The layout of a step's tokens; ``has_kernel`` if one reads lengths there."""
    decoding = tuple(one.slot for one in step.decodes)
    computed = [one.computed for one in step.decodes]
    slots, positions = [*decoding], [*computed]
    chunks: list[ChunkSpan] = []
    for chunk in step.chunks:
        chunks.append(_span_of(chunk, len(slots)))
        slots += [chunk.sequence.slot] * chunk.length
        positions += range(chunk.start, chunk.start + chunk.length)
    reaches = tuple(place + 1 for place in computed)
    return Layout(
        cache=cache,
        slots=torch.tensor(slots, device=device),
        positions=torch.tensor(positions, device=device),
        decoding=decoding,
        reaches=reaches,
        chunks=tuple(chunks),
        lengths=torch.tensor(reaches, device=device) if has_kernel else None,
    )


def _span_of(chunk: PromptChunk, row: int) -> ChunkSpan:
    return ChunkSpan(row, chunk.length, chunk.sequence.slot, chunk.start)
