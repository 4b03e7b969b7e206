"""Run the benchmarks and write what they measured into docs/performance.md.

python scripts/bench.py [--quick] [NAME...]

The page is written when all of them ran, not when some were named. Every figure is
printed on stdout as a JSON line, in the order of its benchmark.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
PACKAGES = ("celery", "kombu", "pika", "psycopg", "torch", "transformers")
LIMIT_S = 900
META = ("bench", "metric", "value", "goal", "better")

Figure = dict[str, object]


def main(arguments: list[str]) -> int:
    """Run what was asked for; status 1 if one could not measure."""
    asked = _asked(arguments)
    load = os.getloadavg()[0]
    names = asked.names or sorted(path.stem for path in _programs())
    figures: list[Figure] = []
    failed = []
    for name in names:
        found = run(name, quick=asked.quick)
        figures += found
        if not found:
            failed.append(name)
    if not asked.names:
        write(figures, quick=asked.quick, load=load)
    for name in failed:
        sys.stderr.write(f"{name} could not measure; its message stands above\n")
    return 1 if failed else 0


def _asked(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 90 s each")
    parser.add_argument("names", nargs="*", help="benchmarks; all unless given")
    return parser.parse_args(arguments)


def _programs() -> Iterable[Path]:
    return (ROOT / "benchmarks").glob("[a-z]*.py")


def run(name: str, *, quick: bool) -> list[Figure]:
    """The figures of one benchmark; none when it failed."""
    sys.stderr.write(f"== {name}\n")
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py")]
    try:
        done = subprocess.run(
            [*command, *(["--quick"] if quick else [])],
            stdout=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"{name} took longer than {LIMIT_S} s\n")
        return []
    sys.stdout.write(done.stdout)
    sys.stdout.flush()
    if done.returncode:
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def write(figures: list[Figure], *, quick: bool, load: float) -> None:
    """Put the table between the page's two markers."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = "\n".join(table(figures, quick=quick, load=load))
    PAGE.write_text(f"{before}{BEGIN}\n{lines}\n{END}{after}", encoding="utf-8")


def table(figures: list[Figure], *, quick: bool, load: float) -> Iterator[str]:
    """The machine, then a line for each figure."""
    kind = "`make bench ARGS=--quick`" if quick else "`make bench`"
    yield f"{kind} on {datetime.now(UTC):%Y-%m-%d}. {machine()}"
    yield f"Load average before the first one: {load:.1f} (0 is an idle machine)."
    yield ""
    yield "| benchmark | figure | measured | goal | | details |"
    yield "|---|---|---|---|---|---|"
    yield from (_row(figure) for figure in figures)


def machine() -> str:
    """What the figures were measured on."""
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in PACKAGES
    )
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {_system()}, "
        f"Python {platform.python_version()}, {packages}."
    )


def _system() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())


def _row(figure: Figure) -> str:
    value, goal = figure["value"], figure["goal"]
    details = {k: v for k, v in figure.items() if k not in META}
    told = "; ".join(f"{name} {_plain(value)}" for name, value in details.items())
    return (
        f"| {figure['bench']} | {figure['metric']} | {value} | {_goal(figure)} "
        f"| {_verdict(value, goal, figure['better'])} | {told} |"
    )


def _goal(figure: Figure) -> str:
    if figure["goal"] is None:
        return "–"
    return f"{'≥' if figure['better'] == 'higher' else '≤'} {figure['goal']}"


def _verdict(value: object, goal: object, better: object) -> str:
    if not isinstance(value, int | float) or not isinstance(goal, int | float):
        return ""
    is_met = value >= goal if better == "higher" else value <= goal
    return "met" if is_met else "**not met**"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
