"""The demand of one planning run: merged, ordered, and asked what is wanted."""

from collections.abc import Iterable
from dataclasses import replace

from cloud_app.brain.views import DemandView


class Demands:
    """All demand of a snapshot, one entry for each (queue, model)."""

    def __init__(self, demand: Iterable[DemandView]) -> None:
        merged: dict[tuple[str, str], DemandView] = {}
        for item in demand:
            key = (item.queue, item.model)
            merged[key] = _merge(merged[key], item) if key in merged else item
        ordered = sorted(merged.values(), key=_urgency)
        self.wanted = tuple(d for d in ordered if d.has_work or d.standing)
        """What needs a replica: work first, then the longest wait, then the most."""
        self.waiting = tuple(d for d in ordered if d.queued > 0)
        """What may need more than one."""
        self._working = {d.model for d in self.wanted if d.has_work}
        self._standing = {d.model for d in self.wanted if d.standing}
        self._arrivals: dict[str, float] = {}
        for item in ordered:
            before = self._arrivals.get(item.model, 0.0)
            self._arrivals[item.model] = before + item.arrivals_per_min

    def has_work(self, model: str) -> bool:
        """True when somebody waits for the model or is served by it."""
        return model in self._working

    def is_standing(self, model: str) -> bool:
        """True when a persona keeps the model ready."""
        return model in self._standing

    def arrivals_per_min(self, model: str) -> float:
        """How often the model is asked for, on all queues."""
        return self._arrivals.get(model, 0.0)


def _merge(one: DemandView, other: DemandView) -> DemandView:
    return replace(
        one,
        queued=one.queued + other.queued,
        running=one.running + other.running,
        arrivals_per_min=one.arrivals_per_min + other.arrivals_per_min,
        standing=one.standing or other.standing,
        replicas=max(one.replicas, other.replicas),
        oldest_s=max(one.oldest_s, other.oldest_s),
    )


def _urgency(demand: DemandView) -> tuple[bool, float, int, float, str, str]:
    return (
        not demand.has_work,
        -demand.oldest_s,
        -demand.queued,
        -demand.arrivals_per_min,
        demand.queue,
        demand.model,
    )
