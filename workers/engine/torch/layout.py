"""Where the tokens of a step lie: slots of the KV cache, and spans of slots.

Decoding slots are read together: one call over many slots reads each as far as the
longest of them, and skips what a mask rules out only after reading it. Apart they cost
a call each. So neighbours are read together where what is read for nothing costs less
than one more call.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from workers.engine.child.scheduler import ForwardPass

CALL_BYTES = 400_000
"""Keys and values read in the time of one more attention call (measured on a CPU)."""

PROGRAMS = 256
"""Two for each processor of a large GPU: more parts than that only cost joining."""


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
        if at.has_kernel:
            from workers.engine.torch import kernels

            kernels.store(self._layers[layer], key, value, at.slots, at.positions)
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


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What a layer adds to plain attention; ``sinks`` has one score a head."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SlotSpan:
    """Rows ``first`` to ``end`` of a step: slots ``low`` to ``high``, ``reach`` keys.

    Between ``low`` and ``high`` there may be slots that do not decode.
    """

    first: int
    end: int
    low: int
    high: int
    reach: int

    @property
    def keys(self) -> int:
        """Keys that are read."""
        return (self.high - self.low) * self.reach

    @property
    def has_gaps(self) -> bool:
        """True if some of the slots do not decode."""
        return self.high - self.low > self.end - self.first


def spans(
    slots: Sequence[int], lengths: Sequence[int], call_keys: int
) -> tuple[SlotSpan, ...]:
    """Spans over ``slots``, which rise, with as many keys each as ``lengths`` says.

    ``call_keys`` is how many keys could be read in the time that a call takes.

    >>> [(one.low, one.high, one.reach) for one in spans([0, 1, 3], [9, 9, 99], 20)]
    [(0, 2, 9), (3, 4, 99)]
    """
    found: list[SlotSpan] = []
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        last = SlotSpan(row, row + 1, slot, slot + 1, length)
        while found:
            both = _joined(found[-1], last)
            if both.keys > found[-1].keys + last.keys + call_keys:
                break
            last = both
            found.pop()
        found.append(last)
    return tuple(found)


def _joined(one: SlotSpan, other: SlotSpan) -> SlotSpan:
    reach = max(one.reach, other.reach)
    return SlotSpan(one.first, other.end, one.low, other.high, reach)


def parts_of(programs: int, blocks: int) -> int:
    """Into how many parts a GPU reads the ``blocks`` of keys of a sequence, where there
    are ``programs`` pairs of a sequence and a key head.

    A power of two: for each number of parts a kernel is compiled, which takes longer
    than many steps.

    >>> [parts_of(programs, 64) for programs in (1, 24, 128, 600)]
    [64, 8, 2, 1]
    """
    wanted = max(1, min(PROGRAMS // programs, blocks, 64))
    return 1 << (wanted.bit_length() - 1)


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
    ids: Tensor
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
    ids = [one.tokens[one.computed] for one in step.decodes]
    slots, positions = [*decoding], [*computed]
    chunks: list[ChunkSpan] = []
    for chunk in step.chunks:
        one, start, end = chunk.sequence, chunk.start, chunk.start + chunk.length
        chunks.append(ChunkSpan(len(slots), chunk.length, one.slot, start))
        ids += one.tokens[start:end]
        slots += [one.slot] * chunk.length
        positions += range(start, end)
    reaches = tuple(place + 1 for place in computed)
    return Layout(
        cache=cache,
        ids=torch.tensor(ids, device=device),
        slots=torch.tensor(slots, device=device),
        positions=torch.tensor(positions, device=device),
        decoding=decoding,
        reaches=reaches,
        chunks=tuple(chunks),
        lengths=torch.tensor(reaches, device=device) if has_kernel else None,
    )
