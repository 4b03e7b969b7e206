"""Jobs read while they are written, on an embedded fleet: late, twice, and not."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fixtures.ports import free_port
from genie import Client, catalog
from genie.cli.embedded import EmbeddedFleet, EmbeddedFleetOptions
from genie.contracts.inference import JobState

WORDS = 250
"""At 10 ms each: two and a half seconds of answer."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a fleet of its own."""
    home = tmp_path_factory.mktemp("home")
    options = EmbeddedFleetOptions(
        home=home, port=free_port(), catalog_path=catalog.ECHO
    )
    with EmbeddedFleet(options) as fleet, fleet.client() as made:
        made.ask("wake up", model="echo:large", max_tokens=1)
        yield made


def test_a_job_is_read_while_it_is_written_by_all_who_listen(client: Client) -> None:
    job = client.submit("one two", model="echo:large", max_tokens=WORDS)
    pieces = job.stream()
    first = next(pieces)
    assert client.job(job.id).status is JobState.RUNNING
    with ThreadPoolExecutor(1) as pool:  # somebody else comes later
        other = pool.submit(lambda: "".join(client.job(job.id).stream()))
        rest = list(pieces)
        whole = first + "".join(rest)
    assert len(rest) > 1
    assert whole == other.result() == job.result().text
    assert len(whole.split()) == WORDS


def test_whoever_leaves_does_not_stop_the_job(client: Client) -> None:
    job = client.submit("one two", model="echo:large", max_tokens=WORDS)
    pieces = job.stream()
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]  # a generator
    assert job.result().usage.completion_tokens == WORDS
