from dataclasses import dataclass
from datetime import UTC, datetime

from cloud_app.api.json import cursor_page, of_record
from genie.api_types import DeliveryAnswer, FileAnswer, FileList, KeyAnswer

MOMENT = datetime(2026, 12, 1, 8, 30, 0, 123_456, tzinfo=UTC)


@dataclass
class Row:
    """Has what the answers below are made of, and more."""

    id: str = "a"
    name: str = "ci"
    status: str = "its own"
    created_at: datetime = MOMENT
    revoked_at: datetime | None = None
    secret: str = "s"


def test_an_answer_takes_the_fields_of_the_same_names_and_no_others() -> None:
    answer = of_record(KeyAnswer, Row())
    assert answer == KeyAnswer(id="a", name="ci", created_at=int(MOMENT.timestamp()))


def test_a_moment_has_milliseconds_where_the_answer_holds_no_whole_numbers() -> None:
    answer = of_record(DeliveryAnswer, Row())
    assert answer.created_at == round(MOMENT.timestamp(), 3)


def test_what_is_given_comes_before_what_the_record_says() -> None:
    assert of_record(DeliveryAnswer, Row(), status="pending").status == "pending"


def test_a_page_names_its_ends_and_whether_there_are_more() -> None:
    files = [FileAnswer(id=name) for name in "abc"]
    page = cursor_page(FileList, files, 2)
    assert (page.first_id, page.last_id, page.has_more) == ("a", "b", True)
    assert len(page.data) == 2
    assert cursor_page(FileList, [], 2) == FileList()
