"""What a comparison of checkouts is made of: its Procfile, catalog and scores."""

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.common import figures, sides
from benchmarks.common.checkout import PLACES, THIS, CheckoutFleet, catalog, procfile
from benchmarks.common.figures import Board, Rounds
from benchmarks.common.loader import Answer, Load, Target
from benchmarks.common.processes import Part
from benchmarks.common.scores import Scores
from benchmarks.common.sides import Bench, Sample, Side, trees


def side(name: str) -> Side:
    target = Target(port=1, request=b"", expect=b"")
    return Side(
        name=name,
        own=lambda: {"web": Part((1,))},
        infra={"broker": Part((2,))},
        whole=target,
    )


def cell(web: float, broker: float) -> Sample:
    load = Load(answers=(), seconds=1.0, expect=b"")
    return Sample(load=load, cpu_s={"web": web, "broker": broker})


class NarrowFleet(CheckoutFleet):
    """Answers 503 until it is widened; nothing of it runs."""

    def __init__(self) -> None:
        self.carries, self.restarts = 0, 0

    def widen_web(self, at_once: int) -> None:
        self.carries = at_once

    def restart_web(self, at_once: int) -> None:
        self.carries = at_once
        self.restarts += 1

    async def ask(self, at_once: int) -> Load:
        status = 200 if self.carries >= at_once else 503
        answer = Answer(
            status=status, asked_at=0.0, ended_at=1.0, first_at=None, body=b""
        )
        return Load(answers=(answer,), seconds=1.0, expect=b"")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(sides, "SETTLE_S", 0.0)
    made = Bench(is_prioritized=False)
    yield made
    made.close()


def test_a_load_that_a_fleet_refuses_is_repeated_on_a_wider_one(bench: Bench) -> None:
    fleet = NarrowFleet()
    one = replace(side("genie"), fleet=fleet)
    found = bench.load(one, one.whole, lambda _: fleet.ask(64), at_once=64)
    assert (found.load.statuses, fleet.carries) == ({200: 1}, 64)


def test_a_fleet_that_was_widened_is_widened_before_a_larger_load(bench: Bench) -> None:
    fleet = NarrowFleet()
    fleet.carries = 64
    one = replace(side("genie"), fleet=fleet)
    bench.load(one, one.whole, lambda _: fleet.ask(512), at_once=512)
    assert (fleet.restarts, fleet.carries) == (1, 512)


def test_a_load_whose_answers_fail_is_no_measurement(bench: Bench) -> None:
    one, fleet = side("litellm"), NarrowFleet()
    with pytest.raises(RuntimeError, match="litellm: 1 of 1 answers were wrong"):
        bench.load(one, one.whole, lambda _: fleet.ask(1), at_once=1)
    bench.load(one, one.whole, lambda _: fleet.ask(1), at_once=1, failing=1.0)


def test_this_trees_procfile_has_a_line_for_each_process() -> None:
    lines = procfile((THIS / "Procfile").read_text())
    assert set(lines) == {"release", "web", "brain", "beat", "worker"}
    assert lines["release"] == "genie db upgrade"


def test_a_catalog_has_a_model_of_its_own_pace_for_each_persona() -> None:
    found = tomllib.loads(catalog({"chat": 10.0, "slow": 100.0}))
    sources = {one["id"]: one["source"] for one in found["models"]}
    assert sources["echo:slow"] == f"echo:?ms_per_token=100.0&slots={PLACES}"
    assert [one["ladder"] for one in found["personas"]] == [
        ["echo:chat"],
        ["echo:slow"],
    ]


def test_another_checkout_is_measured_beside_this_one(tmp_path: Path) -> None:
    assert trees(None) == {"genie": THIS}
    assert trees(tmp_path) == {"genie": THIS, "old": tmp_path}


def test_a_checkout_without_programs_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Procfile").write_text("web: serve")
    monkeypatch.setattr("sys.argv", ["request.py", "--against", str(tmp_path)])
    with pytest.raises(SystemExit):
        figures.options("about")
    assert "has no .venv/bin/python" in capsys.readouterr().err


def test_a_figure_is_the_median_of_the_ratios_of_rounds() -> None:
    scores = Scores([side("genie"), side("old")])
    for mine, others in ((1.0, 2.0), (9.0, 3.0), (4.0, 4.0)):
        scores.note("genie", "64", per_s=mine)
        scores.note("old", "64", per_s=others)
    assert scores.ratio("old", "64", "per_s") == 1.0
    assert scores.spread("old", "64", "per_s") == [0.5, 3.0]
    assert scores.added("old", "64", "per_s") == 0.0
    assert scores.values(["genie", "old"], "64", "per_s") == {"genie": 4.0, "old": 3.0}


def test_processor_time_is_told_whole_without_servers_and_by_part() -> None:
    scores = Scores([side("genie")])
    scores.note_cpu("genie", "64", cell(web=2.0, broker=1.0), 10)
    assert scores.values(["genie"], "64", "cpu") == {"genie": 30.0}
    assert scores.values(["genie"], "64", "own") == {"genie": 20.0}
    assert scores.parts("genie", "64") == {"web": 20.0, "broker": 10.0}


def test_another_side_begins_each_round() -> None:
    scores = Scores([side("genie"), side("old"), side("uvicorn")])
    turns = [[one.name for one in scores.turn(number)] for number in range(3)]
    assert [turn[0] for turn in turns] == ["genie", "old", "uvicorn"]
    assert all(sorted(turn) == ["genie", "old", "uvicorn"] for turn in turns)


def test_rounds_that_lack_a_side_make_no_ratio() -> None:
    rounds = Rounds()
    rounds.note("a", 1.0)
    with pytest.raises(ValueError, match="shorter"):
        rounds.ratio("a", "b")


def test_a_line_of_a_board_says_value_goal_and_details(
    capsys: pytest.CaptureFixture[str],
) -> None:
    board = Board("request")
    board.lower("cpu_vs_old", 1.2345, 1.05, rounds=3)
    assert board.report() == 0
    assert capsys.readouterr().out == (
        '{"bench": "request", "metric": "cpu_vs_old", "value": 1.23, "goal": 1.05, '
        '"better": "lower", "rounds": 3}\n'
    )
