"""The package's front door: what `import genie` costs and offers."""

import subprocess
import sys

import pytest

import genie

HEAVY = (
    "celery",
    "click",
    "flask",
    "httpx2",
    "kombu",
    "msgspec",
    "pydantic",
    "rich",
    "sqlmodel",
    "structlog",
    "torch",
)


def modules_after(code: str) -> set[str]:
    """Names of the top-level packages loaded once a fresh interpreter ran ``code``."""
    script = f"{code}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_genie_loads_no_library() -> None:
    assert modules_after("import genie").isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("code", "most"),
    [
        ("import genie", 40),
        ("import genie; genie.Client", 260),
        ("import genie; genie.AsyncClient", 330),
    ],
)
def test_what_is_imported_is_counted(code: str, most: int) -> None:
    script = f"import sys; print(len(sys.modules))\n{code}\nprint(len(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert after - before <= most


def test_the_client_loads_http_and_nothing_of_a_server() -> None:
    loaded = modules_after("import genie; genie.Client")
    assert "httpx2" in loaded
    assert loaded.isdisjoint(
        {"celery", "flask", "pydantic", "sqlmodel", "torch", "rich"}
    )


def test_the_help_of_the_command_loads_no_command() -> None:
    code = "import sys; sys.argv = ['genie', '--help']\nimport genie.cli\n" + (
        "try:\n    genie.cli.main()\nexcept SystemExit:\n    pass"
    )
    assert modules_after(code).isdisjoint({"httpx2", "rich", "celery", "structlog"})


@pytest.mark.parametrize("name", genie.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(genie, name) is not None
    assert name in dir(genie)


def test_a_name_that_does_not_exist_is_said_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'aks'"):
        _ = genie.aks
