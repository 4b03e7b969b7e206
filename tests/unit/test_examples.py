"""Examples in the docstrings of the cloud, the workers and the benchmarks run.

Those of the SDK run against a fleet, in tests/integration/test_examples.py.
"""

import doctest
import importlib
from pathlib import Path

import pytest

from genie import logs

ROOT = Path(__file__).parents[2]
PACKAGES = ("cloud_app", "workers", "genie/cli", "genie/messaging", "benchmarks")


def modules() -> list[str]:
    """The modules with an example, by name."""
    pages = (page for name in PACKAGES for page in (ROOT / name).rglob("*.py"))
    with_one = (page for page in pages if ">>>" in page.read_text(encoding="utf-8"))
    names = (
        ".".join(page.relative_to(ROOT).with_suffix("").parts) for page in with_one
    )
    return sorted(name.removesuffix(".__init__") for name in names)


@pytest.fixture(autouse=True)
def _logs_elsewhere() -> None:
    """What an example prints is compared: nothing beside it may print."""
    logs.configure(level="CRITICAL")


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted
    assert not done.failed
