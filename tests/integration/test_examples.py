"""Every public name of the SDK has an example, and every example runs as it stands."""

import asyncio
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import genie
from fixtures.ports import free_port
from genie import catalog, logs
from genie.cli.embedded import EmbeddedFleet, EmbeddedFleetOptions
from genie.sdk.batches import Batches
from genie.sdk.files import Files

ROOT = Path(__file__).parents[2]
SEES = re.compile(r"[Ss]ee `([\w.]+)`")
"""How a docstring says whose example it shares."""

KINDS = [
    *[one for name in genie.__all__ if inspect.isclass(one := getattr(genie, name))],
    Batches,
    Files,
]
FUNCTIONS = [name for name in genie.__all__ if inspect.isfunction(getattr(genie, name))]
METHODS = [
    f"{kind.__name__}.{name}"
    for kind in KINDS
    for name, _ in inspect.getmembers(kind, inspect.isroutine)
    if not name.startswith("_")
]


@pytest.fixture(autouse=True)
def _logs_elsewhere() -> None:
    """What an example prints is compared: the fleet beside it must not print."""
    logs.configure(level="ERROR")


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EmbeddedFleet]:
    """One fleet on the echo engine, found by the SDK's own settings."""
    home = tmp_path_factory.mktemp("home")
    models = home / "catalog.toml"
    models.write_text(_once(catalog.ECHO.read_text(encoding="utf-8")))
    options = EmbeddedFleetOptions(home=home, port=free_port(), catalog_path=models)
    with pytest.MonkeyPatch.context() as patch, EmbeddedFleet(options) as made:
        patch.setenv("GENIE_HOME", str(home))
        patch.setenv("GENIE_URL", made.url)
        patch.setenv("GENIE_API_KEY", made.api_key)
        _until_ready(made)
        yield made


def _once(models: str) -> str:
    """The echo models, answering with the prompt once, and with JSON if it is some."""
    able = 'capabilities = ["chat", "json"]\ncontext_max = '
    for context in (2048, 8192):
        models = models.replace(f"context_max = {context}", f"{able}{context}")
    return models.replace("load_s", "once=1&load_s")


def _until_ready(fleet: EmbeddedFleet) -> None:
    with fleet.client() as client:
        until = time.monotonic() + 60
        while not any(model.genie.ready for model in client.models()):
            assert time.monotonic() < until
            time.sleep(0.05)


def modules() -> list[str]:
    """Every module of the SDK; the command line and the workers' side have tests."""
    found = pkgutil.walk_packages(genie.__path__, "genie.")
    inside = [one.name for one in found if not one.name.startswith("genie.cli")]
    return [name for name in inside if not name.endswith("__main__")]


def examples(module: ModuleType) -> list[doctest.DocTest]:
    """The examples in a module's docstrings."""
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    return [one for one in found if one.examples]


@pytest.mark.parametrize("name", ["genie", *modules()])
def test_the_examples_of_a_module_run(
    name: str, fleet: EmbeddedFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    with fleet.client() as client:
        for test in examples(module):
            test.globs |= names_of(client)
            runner.run(test)
    assert not runner.summarize(verbose=False).failed


def names_of(client: genie.Client) -> dict[str, object]:
    """What examples may use without saying where it came from."""
    return {"asyncio": asyncio, "client": client, "genie": genie}


@pytest.mark.parametrize("name", [*FUNCTIONS, *[k.__name__ for k in KINDS], *METHODS])
def test_a_public_name_has_an_example(name: str) -> None:
    shown = text_of(name)
    assert shown, f"{name} has no docstring"
    if ">>>" in shown:
        return
    seen = SEES.search(shown)
    assert seen, f"{name} has no example, and says of nobody that it has one"
    assert ">>>" in text_of(seen.group(1)), f"{seen.group(1)} has no example"


def text_of(name: str) -> str:
    """The docstring of a public name: a function, a class, or one of its methods."""
    first, _, method = name.removeprefix("genie.").partition(".")
    known = {kind.__name__: kind for kind in KINDS}
    owner = known.get(first) or getattr(genie, first)
    return inspect.getdoc(getattr(owner, method) if method else owner) or ""


SNIPPETS = [
    pytest.param(page.name, language, code, id=f"{page.stem}-{number}")
    for page in (ROOT / "README.md", ROOT / "docs/quickstart.md")
    for number, (language, code) in enumerate(
        re.findall(r"```(python|sh)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    )
]

OF_MACHINES = re.compile(r"\bmake\b|worker (join|start)|\bpip\b|activate")
"""Lines that install or start something: other tests run what they lead to."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small copy of this project, with a change that was not committed."""
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/page.md"
    page.write_text("one\n", encoding="utf-8")
    for line in ("init -q", "add .", "commit -q -m One"):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", *who, *line.split()], cwd=tmp_path, check=True)
    page.write_text("two\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("page", "language", "code"), SNIPPETS)
def test_what_a_page_shows_runs(
    page: str, language: str, code: str, fleet: EmbeddedFleet, checkout: Path
) -> None:
    lines = [line for line in code.splitlines() if not OF_MACHINES.search(line)]
    shown = textwrap.dedent("\n".join(lines))
    command = [sys.executable, "-c", shown]
    if language == "sh":
        command = ["bash", "-eo", "pipefail", "-c", shown]
    done = subprocess.run(
        command,
        cwd=checkout,
        env=os.environ | {"PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, f"{page}: {done.stderr}"
