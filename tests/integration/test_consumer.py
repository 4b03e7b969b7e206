"""A program of somebody else, checked by mypy against the package as installed."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("genie", "workers", "cloud_app", "migrations")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")

GOOD = """
import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_type

import genie
from genie import errors
from pydantic import BaseModel


class City(BaseModel):
    name: str


@dataclass
class River:
    km: float


def sync() -> None:
    client = genie.Client("https://genie.example.com", "sk-genie-a-1")
    assert_type(client.ask("x"), genie.Result)
    assert_type(client.ask("x", schema=City, max_tokens=8), genie.Result[City])
    assert_type(genie.ask("x", schema=River, persona="chat").parsed, River | None)
    assert_type(genie.ask("x", schema={"type": "object"}).parsed, object | None)
    assert_type(client.submit("x", schema=City).result(), genie.Result[City])
    jobs = [client.submit(text, schema=City) for text in ("a", "b")]
    assert_type(genie.gather(jobs), list[genie.Result[City]])
    assert_type(next(genie.as_completed(jobs)), genie.Job[City])
    assert_type(genie.map(["a"], max_tokens=3), Iterator[genie.Result])
    with genie.stream("x", on_wait=print) as story:
        assert_type(next(story), str)
    for line in genie.batch({"a": "x"}, window="1h").results():
        assert_type(line, genie.BatchResult)
    assert_type(genie.schedule("x", cron="@daily").runs()[0].job_id, str | None)
    assert_type(genie.models()[0].genie.ready, bool)
    assert_type(genie.route(persona="review").model, str | None)
    try:
        client.job("1")
    except errors.UnknownJob as error:
        assert_type(error.request_id, str | None)


async def awaited() -> None:
    async with genie.AsyncClient() as client:
        assert_type(await client.ask("x", schema=City), genie.Result[City])
        job = await client.submit("x", schema=River)
        assert_type(await job.result(), genie.Result[River])
        async for event in job.events():
            assert_type(event.at, float)
        async with await client.stream("x") as story:
            assert_type([piece async for piece in story], list[str])
        assert_type(await client.gather([job]), list[genie.Result[River]])


asyncio.run(awaited())
"""

BAD = """
import genie

genie.ask("x", persna="chat")
genie.ask(1)
genie.Client().jobs(status="failed")
genie.submit("x").result().text + 1
genie.ask("x", schema=int).parsed.upper()
genie.stream("x").result.tokens
"""


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the built package, and its libraries."""
    folder = tmp_path_factory.mktemp("consumer")
    venv = folder / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60
    )
    (site,) = venv.glob("lib/python*/site-packages")
    with zipfile.ZipFile(_wheel(folder)) as wheel:
        wheel.extractall(site)
    for library in _libraries().iterdir():
        is_ours = library.name.startswith(("genie", "__editable__")) or (
            library.suffix in (".pth", ".egg-link")
        )
        if not is_ours and not (site / library.name).exists():
            (site / library.name).symlink_to(library)
    return folder


def _wheel(folder: Path) -> Path:
    """The package, built from a copy: building leaves files behind."""
    source = folder / "source"
    for name in SHIPPED:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in FILES:
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
    options = ["--no-build-isolation", "--no-index", "-w", str(folder), str(source)]
    subprocess.run([*command, *options], check=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return built


def _libraries() -> Path:
    spec = importlib.util.find_spec("msgspec")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


def check(consumer: Path, program: str) -> tuple[int, str]:
    """What mypy says of a program; its cache is shared between the tests."""
    path = consumer / "program.py"
    path.write_text(program, encoding="utf-8")
    strictly = ["mypy", "--strict", "--no-error-summary", "--config-file", ""]
    places = ["--python-executable", str(consumer / "venv/bin/python")]
    done = subprocess.run(
        [sys.executable, "-m", *strictly, *places, "--cache-dir", "cache", str(path)],
        cwd=consumer,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_strict_program_checks(consumer: Path) -> None:
    assert check(consumer, GOOD) == (0, "")


def test_its_mistakes_are_found(consumer: Path) -> None:
    code, said = check(consumer, BAD)
    wrong = {
        int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line
    }
    first = BAD.splitlines().index('genie.ask("x", persna="chat")') + 1
    assert code == 1
    assert wrong == set(range(first, first + 6))


def test_what_is_installed_is_the_package_and_no_test(consumer: Path) -> None:
    (site,) = (consumer / "venv").glob("lib/python*/site-packages")
    assert (site / "genie/py.typed").is_file()
    assert not (site / "genie").is_symlink()
    assert not (site / "tests").exists()
    code = "import genie, sys; print(genie.__file__); sys.exit(not genie.AsyncClient)"
    done = subprocess.run(
        [consumer / "venv/bin/python", "-c", code],
        cwd=consumer,
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(site)
