"""What OpenAI's own description says of the endpoints we serve, held against ours."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from fixtures import hammer, openai_description
from fixtures.hammer import Plan
from fixtures.shop import Shop

RULES = Path(__file__).with_name("openai.toml")


def run(
    specification: Path,
    shop: Shop,
    folder: Path,
    *,
    phases: Iterable[str],
    examples: int,
    seed: int,
) -> str:
    document = folder / "openai.json"
    document.write_text(json.dumps(openai_description.served(specification)))
    plan = Plan(
        document=str(document),
        base="/v1",
        rules=RULES,
        phases=phases,
        examples=examples,
        seed=seed,
    )
    return hammer.run(plan, shop, folder)


@pytest.mark.timeout(600)
def test_answers_have_the_shapes_openai_describes(
    specification: Path, stocked: Shop, tmp_path: Path
) -> None:
    said = run(
        specification, stocked, tmp_path, phases=["coverage"], examples=1, seed=20260101
    )
    assert "No issues found" in said


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_the_same_with_many_more_requests(
    specification: Path, stocked: Shop, tmp_path: Path
) -> None:
    phases = ["coverage", "fuzzing"]
    said = run(specification, stocked, tmp_path, phases=phases, examples=200, seed=1)
    assert "No issues found" in said
