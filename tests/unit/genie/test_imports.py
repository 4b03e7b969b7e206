import json
import subprocess
import sys

import pytest

HEAVY = ("celery", "flask", "kombu", "pika", "pydantic", "sqlmodel", "torch")


def loaded(statement: str) -> set[str]:
    """Top-level names a fresh interpreter has after one statement."""
    report = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{report}"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "statement",
    [
        "import genie",
        "import genie.contracts.inference, genie.contracts.codec",
        "import genie.catalog, genie.topology, genie.memory, genie.fingerprint",
        "import genie.env, genie.errors, genie.logs",
        "import cloud_app.brain.router, cloud_app.brain.planner",
    ],
)
def test_what_everybody_imports_is_light(statement: str) -> None:
    assert loaded(statement).isdisjoint(HEAVY)


def test_the_contracts_need_msgspec_and_nothing_else() -> None:
    before = loaded("import msgspec.json, msgspec.structs, enum, datetime, typing")
    extra = loaded("import genie.contracts.inference, genie.contracts.codec") - before
    allowed = {*sys.stdlib_module_names, "genie", "msgspec", "__editable__"}
    assert {name for name in extra if name.isidentifier()} <= allowed
