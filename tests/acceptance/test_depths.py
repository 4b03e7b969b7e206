"""What waits, for how long, and what could not be served: from the command line."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import kombu
import psycopg
import pytest

from fixtures.fleet import Fleet, wait_until
from genie import Client, topology
from genie.contracts.inference import WorkClass
from genie.sdk.chat import AskOptions

HEARTBEAT_S = 2.0  # as in conftest.py
LONG: AskOptions = {"persona": "chat", "max_tokens": 500}
SECRET = "the-words-of-a-prompt"


def run(fleet: Fleet, *command: str) -> Any:
    environ = {"GENIE_URL": fleet.url, "GENIE_API_KEY": fleet.api_key}
    printed = fleet.run("genie", *command, **environ)
    return json.loads(printed) if "--json" in command else printed


def row_of(fleet: Fleet) -> dict[str, Any]:
    """What `genie queues` says of the interactive queue of echo:small."""
    rows = run(fleet, "queues", "--json")
    wanted = ("echo:small", "interactive")
    return next(row for row in rows if (row["model"], row["class"]) == wanted)


def test_queues_say_what_waits_for_how_long_and_who_would_take_it(
    fleet: Fleet, client: Client
) -> None:
    wait_until(lambda: row_of(fleet)["consumers"] == 2, 20, "both workers ask for work")
    with ExitStack() as stack:
        for number in range(12):
            stack.enter_context(client.stream(f"q{number}", **LONG))
        full = row_of(fleet)
    assert full["waiting"] == 4  # of twelve, eight have a slot
    assert full["consumers"] == 0  # nobody asks for more
    assert 0 < full["oldest_s"] < 60
    wait_until(lambda: row_of(fleet)["consumers"] == 2, 20, "both ask again")
    empty = row_of(fleet)
    assert (empty["waiting"], empty["oldest_s"]) == (0, None)


@pytest.fixture
def dead(rabbitmq_url: str) -> Iterator[str]:
    """The id of a message of this org that its worker will refuse."""
    name = topology.model_queue(topology.SHARED, "echo:small", WorkClass.INTERACTIVE)
    connection: kombu.Connection = kombu.Connection(rabbitmq_url)
    with connection:
        channel = connection.channel()
        headers = {"id": "broken-1", "org": "acme", "model": "echo:small"}
        message = channel.prepare_message(SECRET.encode(), headers=headers)
        channel.basic_publish(message, exchange="", routing_key=name)
        yield "broken-1"


def test_a_dead_letter_is_shown_without_its_words_unless_asked_which_is_written_down(
    fleet: Fleet, dead: str, postgres_url: str
) -> None:
    wait_until(
        lambda: bool(run(fleet, "dead-letters", "list", "--json")), 20, "it died"
    )
    (letter,) = run(fleet, "dead-letters", "list", "--json")
    assert (letter["id"], letter["reason"]) == (dead, "rejected")
    shown = run(fleet, "dead-letters", "show", dead)
    assert SECRET not in shown
    assert "could not read it" in shown
    assert audited(postgres_url, dead) == []
    assert SECRET in run(fleet, "dead-letters", "show", dead, "--text")
    assert audited(postgres_url, dead) == ["dead_letter_read"]
    run(fleet, "dead-letters", "discard", dead)
    assert run(fleet, "dead-letters", "list", "--json") == []


def audited(url: str, subject: str) -> list[str]:
    """What was written down about a letter."""
    with psycopg.connect(url.replace("+psycopg", "")) as session:
        rows = session.execute(
            "SELECT action FROM audit WHERE subject = %s ORDER BY at", [subject]
        ).fetchall()
    return [str(action) for (action,) in rows]
