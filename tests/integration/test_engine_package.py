"""A third engine, installed from its own package, serves in a fleet."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fixtures.fleet import wait_until
from fixtures.ports import free_port
from genie import Client, engines
from genie.cli.embedded import EmbeddedFleet, EmbeddedFleetOptions
from genie.contracts.fleet import ModelState
from workers.engine import registry

PACKAGE = Path(__file__).parents[1] / "packages" / "mirror"
READY_S = 60.0
CATALOG = """
[[models]]
id = "mirror:{name}"
family = "mirror"
parameters = 1
license = "Apache-2.0"
source = "{name}:?slots=7"
context_max = 2048
layers = 1
kv_heads = 1
head_dim = 1
engine = "{name}"
quants = [{{ name = "none", dtype = "float32" }}]

[[personas]]
name = "{name}"
tier = "lite"
ladder = ["mirror:{name}"]
standing = true
"""
NAMES = ("mirror", "mirror_here")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package, installed by pip and found by its entry points."""
    folder = tmp_path_factory.mktemp("package")
    # A build leaves its files beside the source: not in this tree.
    source = shutil.copytree(PACKAGE, folder / "source")
    target = folder / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*command, str(source)], check=True, timeout=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(target))
        registry.registered.cache_clear()
        yield
    registry.registered.cache_clear()


@pytest.fixture(scope="module")
def others() -> set[int]:
    """Engines that tests before these left running in this process."""
    return children()


@pytest.fixture(scope="module")
def client(
    installed: None, others: set[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("fleet")
    catalog = folder / "catalog.toml"
    models = [CATALOG.format(name=name) for name in NAMES]
    catalog.write_text("\n".join(models), encoding="utf-8")
    options = EmbeddedFleetOptions(home=folder, port=free_port(), catalog_path=catalog)
    with EmbeddedFleet(options) as fleet, fleet.client() as made:
        wait_until(lambda: slots(made).keys() == set(NAMES), READY_S, "both are ready")
        yield made


def slots(client: Client) -> dict[str, int]:
    held = (model for worker in client.workers() for model in worker.models)
    return {
        model.model.removeprefix("mirror:"): model.slots
        for model in held
        if model.state is ModelState.READY
    }


def children() -> set[int]:
    """The processes below this one that run an engine, by id."""
    mine = psutil.Process().children(recursive=True)
    return {one.pid for one in mine if "workers.engine.child.main" in one.cmdline()}


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_through_cloud_and_worker(client: Client, name: str) -> None:
    assert client.ask("one two three", persona=name).text == "three two one"


def test_it_is_planned_by_what_its_registry_says(client: Client) -> None:
    assert slots(client) == {"mirror": 7, "mirror_here": 7}


def test_only_the_one_that_asked_for_a_child_has_one(
    client: Client, others: set[int]
) -> None:
    assert len(children() - others) == 1


def test_the_worker_reports_it_beside_the_shipped_ones(installed: None) -> None:
    reported = {facts.name: facts for facts in registry.facts()}
    assert set(reported) == {"transformers", "echo", *NAMES}
    assert reported["mirror"].sources == ("mirror",)
    assert reported["echo"].memory is engines.SHIPPED["echo"].memory
