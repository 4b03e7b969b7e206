"""How long a wait is predicted to be."""

from dataclasses import replace

import pytest
from msgspec import structs

from cloud_app.brain.capacity import eta_s
from cloud_app.brain.views import FleetView, Liveness, WorkerView
from fixtures.views import NOW
from genie.contracts.fleet import ModelState, ModelStatus

HELD = ModelStatus(model="m", quant="q", state=ModelState.READY, tokens_per_s=50.0)
WORKER = WorkerView(
    id="w",
    name="w",
    queues=("genie",),
    liveness=Liveness.ONLINE,
    age_s=0,
    device="cpu",
    memory_bytes=1,
    models=(HELD,),
)


def predict(*workers: WorkerView, tokens: float | None = 100) -> float | None:
    fleet = FleetView(workers=workers, as_of=NOW)
    return eta_s(fleet, queue="genie", model="m", ahead=3, tokens=tokens)


def test_the_wait_is_tokens_ahead_over_the_speed_of_all_replicas() -> None:
    assert predict(WORKER) == 6.0
    assert predict(WORKER, WORKER) == 3.0


@pytest.mark.parametrize(
    "other",
    [
        replace(WORKER, queues=("org.acme",)),
        replace(WORKER, liveness=Liveness.LOST),
        replace(WORKER, draining=True),
        replace(WORKER, models=(structs.replace(HELD, state=ModelState.LOADING),)),
        replace(WORKER, models=(structs.replace(HELD, tokens_per_s=0.0),)),
        replace(WORKER, models=(structs.replace(HELD, model="another"),)),
    ],
)
def test_who_cannot_serve_it_does_not_count(other: WorkerView) -> None:
    assert predict(other) is None
    assert predict(WORKER, other) == 6.0


def test_without_a_measured_answer_nothing_is_predicted() -> None:
    assert predict(WORKER, tokens=None) is None
