"""Picking the next tokens of many requests at once, on a GPU.

One by one each request's choice is some ten kernels and a wait for the device, half a
millisecond; together they are as quick as one. Each request keeps its own random
stream, so that its seed decides whatever company it has.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.engine.sampler import Sampler


def pick_together(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row of ``[rows, vocabulary]``; see `Sampler.is_plain`."""
    said = [one.sampling for one in samplers]
    scores = logits.float() / _column([one.temperature for one in said], logits)
    ordered, at = scores.sort(dim=-1, descending=True, stable=True)
    ordered = _narrowed(ordered, samplers)
    noise = torch.empty_like(scores)
    for row, one in zip(noise, samplers, strict=True):
        # What `torch.multinomial` draws for one row: in the order of the vocabulary.
        row.exponential_(generator=one.generator)
    weights = torch.softmax(ordered, dim=-1) / noise.gather(-1, at)
    best = weights.argmax(dim=-1, keepdim=True)
    chosen: list[int] = at.gather(-1, best)[:, 0].tolist()
    return chosen


def _narrowed(ordered: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Rule out what top_k, top_p and min_p leave out, the likeliest coming first."""
    said = [one.sampling for one in samplers]
    size = ordered.shape[-1]
    counts = [one.top_k if 0 < one.top_k < size else size for one in said]
    lowest = ordered.gather(-1, _column(counts, ordered).long() - 1)
    ordered = ordered.masked_fill(ordered < lowest, -torch.inf)
    weights = torch.softmax(ordered, dim=-1)
    # What comes before a token must fill the share already for it to go; the
    # likeliest token always stays.
    shares = [one.top_p if one.top_p < 1 else torch.inf for one in said]
    out = weights.cumsum(dim=-1) - weights >= _column(shares, ordered)
    out |= weights < weights[:, :1] * _column([one.min_p for one in said], ordered)
    out[:, 0] = False
    return ordered.masked_fill(out, -torch.inf)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=torch.float32)[:, None]
