"""``genie dead-letters``: a list without text, one letter, replay and discard."""

import json
from collections.abc import Callable

from click.testing import Result

from fixtures.twin_cloud import TwinCloud

Run = Callable[..., Result]

LETTER = {
    "id": "01hx3kabcdefghjkmnpqrstvwx",
    "object": "dead_letter",
    "queue": "genie",
    "source": "genie.smollm2:135m.job",
    "reason": "rejected",
    "why": "a worker could not read it as a task",
    "died_at": 1_700_000_000.0,
    "model": "smollm2:135m",
    "class": "job",
    "size_bytes": 321,
}
PATH = f"/v1/dead-letters/{LETTER['id']}"


def test_the_list_has_a_line_a_letter(cloud: TwinCloud, run: Run) -> None:
    cloud.replies["GET /v1/dead-letters"] = {"object": "list", "data": [LETTER]}
    for args in (("dead-letters",), ("dead-letters", "list")):
        shown = run(*args)
        assert shown.exit_code == 0, shown.output
        assert "smollm2:135m" in shown.output
        assert "rejected" in shown.output


def test_one_letter_says_why_it_died_and_its_text_when_asked(
    cloud: TwinCloud, run: Run
) -> None:
    cloud.replies[f"GET {PATH}"] = LETTER | {"content": {"prompt": "hi"}}
    shown = run("dead-letters", "show", LETTER["id"], "--text")
    assert "could not read it" in shown.output
    assert '"prompt": "hi"' in shown.output
    as_json = run("dead-letters", "show", LETTER["id"], "--json")
    assert json.loads(as_json.output)["class"] == "job"


def test_letters_are_replayed_and_discarded(cloud: TwinCloud, run: Run) -> None:
    cloud.replies[f"POST {PATH}/replay"] = {"id": LETTER["id"], "status": "queued"}
    cloud.replies[f"DELETE {PATH}"] = {"discarded": True}
    assert run("dead-letters", "replay", LETTER["id"]).output.endswith("\tqueued\n")
    assert run("dead-letters", "discard", LETTER["id"]).output.endswith("discarded\n")
