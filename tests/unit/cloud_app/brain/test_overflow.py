from dataclasses import fields
from itertools import product

from cloud_app.brain.overflow import NOT_ENABLED, NoOverflow, OverflowConditions, decide

NAMES = [field.name for field in fields(OverflowConditions)]
EVERY = [
    OverflowConditions(**dict(zip(NAMES, values, strict=True)))
    for values in product([False, True], repeat=len(NAMES))
]


def test_every_one_of_the_32_situations_is_refused() -> None:
    assert len(set(EVERY)) == 32
    for situation in EVERY:
        answer = decide(situation)
        assert isinstance(answer, NoOverflow)
        assert answer.reasons[0] == NOT_ENABLED


def test_each_unmet_condition_is_named_once() -> None:
    for situation in EVERY:
        unmet = [name for name in NAMES if not getattr(situation, name)]
        reasons = decide(situation).reasons
        assert len(reasons) == 1 + len(unmet)
        assert len(set(reasons)) == len(reasons)
