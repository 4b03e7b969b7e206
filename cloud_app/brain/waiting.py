"""How long someone who waits will wait: tokens ahead over measured speed (pure)."""

from cloud_app.brain.views import FleetView
from genie.contracts.fleet import ModelState


def eta_s(
    fleet: FleetView, *, queue: str, model: str, ahead: int, tokens: float | None
) -> float | None:
    """Seconds until ``ahead`` requests of ``tokens`` each are served, None if unknown.

    Unknown is honest: no replica is ready, none was measured yet, or nobody has seen
    how long an answer of this model is.
    """
    speed = sum(
        held.tokens_per_s
        for worker in fleet.workers
        if worker.is_open and queue in worker.queues
        for held in worker.models
        if held.model == model and held.state is ModelState.READY
    )
    if tokens is None or speed <= 0:
        return None
    return ahead * tokens / speed
