"""Date variables in a schedule's request."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from cloud_app.brain import template
from genie.errors import BadRequest

BERLIN = ZoneInfo("Europe/Berlin")
DUE = datetime(2026, 1, 1, 7, 30, tzinfo=BERLIN)
NOW = datetime(2026, 1, 1, 7, 31, 2, 5, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{date}} {{time}}", "2026-01-01 07:30"),
        ("{{ weekday }}, {{week}}", "Thursday, 2026-W01"),
        ("{{yesterday}} {{tomorrow}}", "2025-12-31 2026-01-02"),
        ("{{month}} of {{year}}", "2026-01 of 2026"),
        ("{{fire_at}}", "2026-01-01T07:30:00+01:00"),
        ("{{now}}", "2026-01-01T07:31:02+01:00"),
        ("{{schedule}}", "digest"),
        (r"keep \{{date}}", "keep {{date}}"),
        ("{one} }} {{", "{one} }} {{"),
    ],
)
def test_a_variable_is_filled_in(text: str, filled: str) -> None:
    assert template.fill(text, DUE, NOW, "digest") == filled


@pytest.mark.parametrize("text", ["{{}}", "{{datum}}", "{{date|upper}}"])
def test_a_variable_that_does_not_exist_is_an_error_that_lists_all(text: str) -> None:
    with pytest.raises(BadRequest, match="there are: date time") as caught:
        template.fill(text, DUE, NOW, "digest")
    assert caught.value.param == "request"


def test_every_text_of_a_request_is_filled_and_nothing_else() -> None:
    request = {"messages": [{"content": "{{date}}"}], "max_tokens": 5, "seed": None}
    assert template.fill_all(request, DUE, NOW, "x") == {
        "messages": [{"content": "2026-01-01"}],
        "max_tokens": 5,
        "seed": None,
    }
