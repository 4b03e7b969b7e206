"""Picking the next token of one request from its logits."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genie.contracts.inference import Sampling
from workers.engine.errors import refused
from workers.engine.torch.grammar import GrammarGuide


@dataclass(slots=True)
class Sampler:
    """One request's way of choosing, with a random stream of its own.

    ``prompt`` and ``produced`` are token ids; penalties look back at them. ``ends``
    are ruled out until there are ``min_tokens``.
    """

    sampling: Sampling
    prompt: list[int]
    bias: dict[int, float]
    generator: torch.Generator
    ends: frozenset[int] = frozenset()
    produced: list[int] = field(default_factory=list)
    guide: GrammarGuide | None = None

    @property
    def is_greedy(self) -> bool:
        """True when the highest logit as it is decides."""
        return self.sampling.temperature == 0 and self._is_unaltered

    @property
    def is_plain(self) -> bool:
        """True when temperature, top_k, top_p and min_p are all that decides."""
        return self.sampling.temperature > 0 and self._is_unaltered

    @property
    def _is_unaltered(self) -> bool:
        sampling = self.sampling
        return (
            self.guide is None
            and not self.bias
            and not self._must_go_on
            and sampling.presence_penalty == 0
            and sampling.frequency_penalty == 0
            and sampling.repetition_penalty == 1
        )

    def pick(self, logits: Tensor) -> int:
        """The next token of ``[vocabulary]`` logits."""
        scores = self._adjusted(logits.float().clone())
        if self.guide is not None:
            scores = self.guide.narrow(scores)
        if self.sampling.temperature == 0:
            return int(scores.argmax())
        scores = _narrowed(scores[None] / self.sampling.temperature, [self.sampling])
        weights = torch.softmax(scores[0], dim=-1)
        return int(torch.multinomial(weights, 1, generator=self.generator))

    def _adjusted(self, scores: Tensor) -> Tensor:
        sampling = self.sampling
        if sampling.repetition_penalty != 1:
            seen = torch.tensor(
                sorted({*self.prompt, *self.produced}), device=scores.device
            )
            old, penalty = scores[seen], sampling.repetition_penalty
            scores[seen] = torch.where(old < 0, old * penalty, old / penalty)
        if self.produced and (sampling.presence_penalty or sampling.frequency_penalty):
            counts = torch.bincount(
                torch.tensor(self.produced, device=scores.device),
                minlength=len(scores),
            )
            scores -= sampling.frequency_penalty * counts
            scores -= sampling.presence_penalty * (counts > 0)
        for token, bias in self.bias.items():
            scores[token] += bias
        if self._must_go_on:
            scores[list(self.ends)] = -torch.inf
        return scores

    @property
    def _must_go_on(self) -> bool:
        return bool(self.ends) and len(self.produced) < self.sampling.min_tokens


RIVALS_MAX = 20
"""How many rivals of a token may be asked for, as in OpenAI's API."""


def token_logprobs(logits: Tensor, token: int, rivals: int) -> list[tuple[int, float]]:
    """Log probability of ``token``, then of its likeliest rivals, with their ids.

    The rivals are the ``rivals`` likeliest tokens, the chosen one among them.
    """
    scores = torch.log_softmax(logits.float(), dim=-1)
    best = scores.topk(min(rivals, len(scores)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(token, float(scores[token])), *pairs]


def sampler_of(
    sampling: Sampling,
    prompt: list[int],
    *,
    vocabulary: int,
    device: torch.device,
    ends: frozenset[int] = frozenset(),
) -> Sampler:
    """A request's sampler; raises RequestRefused naming the field that cannot work."""
    _check(sampling)
    generator = torch.Generator(device=device)
    if sampling.seed is None:
        generator.seed()
    else:
        # Any whole number is a seed; torch takes 64 bits.
        generator.manual_seed(sampling.seed % 2**63)
    bias = _bias(sampling.logit_bias, vocabulary)
    return Sampler(sampling, prompt, bias, generator, ends)


def _check(sampling: Sampling) -> None:
    limits = (
        ("temperature", sampling.temperature, 0.0, 100.0),
        ("top_p", sampling.top_p, 0.0, 1.0),
        ("min_p", sampling.min_p, 0.0, 1.0),
        ("repetition_penalty", sampling.repetition_penalty, 0.01, 100.0),
        ("presence_penalty", sampling.presence_penalty, -100.0, 100.0),
        ("frequency_penalty", sampling.frequency_penalty, -100.0, 100.0),
        ("logprobs", sampling.logprobs or 0, 0, RIVALS_MAX),
    )
    for name, value, low, high in limits:
        # Written so that NaN, which is in no order with anything, is refused too.
        if not low <= value <= high:
            message = f"{name} is {value}; it must be from {low:g} to {high:g}"
            raise refused("invalid_request", message, name)
    most = sampling.max_tokens
    if most is not None and sampling.min_tokens > most:
        message = f"min_tokens is {sampling.min_tokens}, more than max_tokens, {most}"
        raise refused("invalid_request", message, "min_tokens")


def _bias(biases: dict[str, float], vocabulary: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for name, value in biases.items():
        if not name.isdecimal() or int(name) >= vocabulary:
            message = (
                f"logit_bias names token {name!r}; this model has 0 to {vocabulary - 1}"
            )
            raise refused("invalid_request", message, "logit_bias")
        bias[int(name)] = value
    return bias


def pick_together(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row of ``[rows, vocabulary]``; see `Sampler.is_plain`."""
    samplings = [one.sampling for one in samplers]
    # A lower temperature would make numbers of them that are not finite.
    temperatures = [max(one.temperature, 1e-30) for one in samplings]
    scores = logits.float() / _column(temperatures, logits)
    noise = torch.empty_like(scores)
    for row, one in zip(noise, samplers, strict=True):
        # What `torch.multinomial` draws for one row.
        row.exponential_(generator=one.generator)
    weights = torch.softmax(_narrowed(scores, samplings), dim=-1) / noise
    chosen: list[int] = weights.argmax(dim=-1).tolist()
    return chosen


def _narrowed(scores: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Rule out what each row's top_k, top_p and min_p leave out, in that order."""
    size = scores.shape[-1]
    counts = [one.top_k if 0 < one.top_k < size else size for one in samplings]
    if min(counts) < size:
        best = scores.topk(max(counts)).values
        lowest = best.gather(-1, _column(counts, scores).long() - 1)
        scores = scores.masked_fill(scores < lowest, -torch.inf)
    if any(one.top_p < 1 for one in samplings):
        scores = _nuclei(scores, [one.top_p for one in samplings])
    if any(one.min_p > 0 for one in samplings):
        weights = torch.softmax(scores, dim=-1)
        least = _column([one.min_p for one in samplings], scores)
        too_rare = weights < least * weights.amax(dim=-1, keepdim=True)
        scores = scores.masked_fill(too_rare, -torch.inf)
    return scores


def _nuclei(scores: Tensor, shares: list[float]) -> Tensor:
    ordered, at = scores.sort(dim=-1, descending=True, stable=True)
    weights = torch.softmax(ordered, dim=-1)
    # What comes before a token must fill the share already for it to go; the
    # likeliest token always stays.
    wanted = [share if share < 1 else torch.inf for share in shares]
    out = weights.cumsum(dim=-1) - weights >= _column(wanted, scores)
    out[:, 0] = False
    return scores.masked_fill(out.scatter(-1, at, out), -torch.inf)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=torch.float32)[:, None]
