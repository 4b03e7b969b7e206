"""Tables and cards on terminals of any width; values for people and for scripts."""

import pytest

from genie.cli import tables
from genie.cli.output import CommandSession, show_card, show_done, show_table
from genie.cli.values import DisplayValue, age, took, when

JOB_ID = "01hx3kabcdefghjkmnpqrstvwx"
COLUMNS = ("job", "status", "model", "worker", "why")
ROW = (JOB_ID, "completed", "smollm2:135m", "gpu-server-1", "it is the smallest model")

PERSON = CommandSession(is_terminal=lambda: True)
SCRIPT = CommandSession(is_terminal=lambda: False)


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("COLUMNS", "80")
    return monkeypatch


@pytest.mark.parametrize("columns", [20, 26, 40, 60, 80, 120, 300])
def test_no_word_is_cut_and_no_line_of_a_table_is_too_wide(
    columns: int,
    width: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    width.setenv("COLUMNS", str(columns))
    show_table(PERSON, COLUMNS, [ROW, ROW])
    text = capsys.readouterr().out
    assert text.count(JOB_ID) == 2
    assert text.count("smollm2:135m") == 2
    is_table = "status" in text.splitlines()[0]
    assert is_table == (columns >= 80)
    if is_table:
        assert max(map(len, text.splitlines())) <= columns


def test_columns_that_can_be_spared_go_before_rows_become_cards(
    width: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    width.setenv("COLUMNS", "60")
    show_table(PERSON, COLUMNS, [ROW], spare=("worker", "why"))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["job", "status", "model"]
    assert len(shown) == 2
    show_table(PERSON, COLUMNS, [ROW])
    assert "worker  gpu-server-1" in capsys.readouterr().out.splitlines()


def test_numbers_stand_on_the_right_and_empty_columns_are_left_out(
    width: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show_table(PERSON, ("queue", "waiting", "none"), [("a", 5, None), ("b", 120, None)])
    assert capsys.readouterr().out == "queue  waiting\na            5\nb          120\n"


def test_a_script_gets_every_column_in_one_line_without_tabs_in_a_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table(SCRIPT, ("a", "b", "c"), [("x\ty\nz", None, took(2.5))])
    assert capsys.readouterr().out == "x y z\t\t2.5\n"


def test_only_a_person_is_told_that_there_is_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table(PERSON, ("a",), [], none="nothing yet")
    show_table(SCRIPT, ("a",), [], none="nothing yet")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "nothing yet\n")


def test_a_card_wraps_under_its_value_and_lists_one_a_line(
    width: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    width.setenv("COLUMNS", "40")
    pairs = [("because", ("it is the smallest that fits here", "ready")), ("no", None)]
    show_card(PERSON, pairs)
    assert capsys.readouterr().out.splitlines() == [
        "because  it is the smallest that fits",
        "         here",
        "         ready",
    ]
    show_card(SCRIPT, pairs)
    assert (
        capsys.readouterr().out == "because\tit is the smallest that fits here, ready\n"
    )


def test_a_wide_character_takes_two_columns() -> None:
    assert tables.widths([["name", "夜間要約"]], 80) == [8]


def test_moments_are_short_for_people_and_exact_for_scripts() -> None:
    at = 1_700_000_000.0
    assert age(at, now=at + 150) == DisplayValue(
        person="2 min", script="2023-11-14T22:13:20Z", is_number=True
    )
    told = when(at)
    assert told is not None
    assert told.script == "2023-11-14T22:13:20Z"
    assert when(None) is age(None) is took(None) is None


def test_what_was_done_is_one_line_of_text_or_of_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for session, as_json in ((PERSON, False), (SCRIPT, False), (SCRIPT, True)):
        show_done(session, as_json, {"id": "01a"}, ("01a", "cancelled"))
    said = capsys.readouterr().out
    assert said == '01a  cancelled\n01a\tcancelled\n{"id":"01a"}\n'
