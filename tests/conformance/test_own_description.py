"""What /openapi promises, held against a running fleet with generated requests.

Every operation: no fault of ours, answers of the documented statuses, types, headers
and shapes, and bad data refused with a 4xx in the error's shape.
"""

from pathlib import Path

import pytest

from fixtures import hammer
from fixtures.hammer import Plan
from fixtures.shop import Shop

RULES = Path(__file__).with_name("own.toml")


@pytest.mark.timeout(600)
def test_a_running_cloud_does_what_its_description_says(
    stocked: Shop, tmp_path: Path
) -> None:
    plan = Plan(
        document=f"{stocked.url}/openapi",
        rules=RULES,
        phases=("coverage",),
        examples=1,
        seed=20260101,
    )
    assert "No issues found" in hammer.run(plan, stocked, tmp_path)


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_with_many_more_requests(
    stocked: Shop, tmp_path: Path, seed: int
) -> None:
    plan = Plan(
        document=f"{stocked.url}/openapi",
        rules=RULES,
        phases=("coverage", "fuzzing", "stateful"),
        examples=150,
        seed=seed,
    )
    assert "No issues found" in hammer.run(plan, stocked, tmp_path)
