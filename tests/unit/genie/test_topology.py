import pytest

from genie import topology
from genie.contracts.inference import WorkClass


@pytest.mark.parametrize("work_class", list(WorkClass))
def test_each_class_of_a_model_has_a_queue_of_its_own(work_class: WorkClass) -> None:
    name = topology.model_queue("org.acme", "qwen3:14b", work_class)
    assert name == f"org.acme.qwen3:14b.{work_class.value}"
    assert name.endswith(topology.routing_key("qwen3:14b", work_class))


def test_no_two_names_meet() -> None:
    names = [
        topology.SHARED,
        topology.OUTCOMES,
        topology.BRAIN,
        topology.dead_letters("genie"),
        topology.org_queue("acme"),
        topology.control_queue("w1"),
        topology.reply_queue("w1"),
        topology.TASK_GATHER,
        topology.TASK_PLACE,
        topology.TASK_RELAY,
        topology.TASK_SWEEP,
        topology.TASK_BURY,
        topology.TASK_NUDGE,
        topology.TASK_CANCEL,
        topology.TASK_RESUME,
        topology.TASK_TIDY,
        topology.TASK_INFERENCE,
        *(topology.model_queue("genie", "m", c) for c in WorkClass),
    ]
    assert len(set(names)) == len(names)


def test_an_orgs_queue_is_never_the_shared_one() -> None:
    assert topology.org_queue("genie") != topology.SHARED
