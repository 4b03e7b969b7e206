"""Who asks when, with how long a prompt, for how long an answer.

Recorded: Azure LLM inference 2023 (conversation, code; CC-BY-4.0, Patel et al., ISCA
2024), Mooncake (Apache-2.0, Qin et al., FAST 2025). Drawn from recorded statistics:
ServeGen m-mid (Apache-2.0, Xiang et al., 2025). Without the files: drawn from the
means, quantiles and burstiness of the same, so the shape stays and the noise differs.
"""

import csv
import gzip
import json
import math
import os
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypedDict

WINDOW_S = 600.0
"""ServeGen's clients keep a rate for this long."""

NEAR = Path(__file__).parents[3] / "shared" / "traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request: seconds from the start, tokens in and out, known prefix blocks."""

    at: float
    prompt: int
    answer: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A trace in a few numbers: requests/s, their CV, tokens at (mean, median)."""

    rate: float
    cv: float
    prompt: tuple[float, float]
    answer: tuple[float, float]


SHAPES = {
    "conversation": Shape(rate=5.53, cv=1.09, prompt=(1155, 1020), answer=(211, 129)),
    "code": Shape(rate=2.57, cv=13.2, prompt=(2048, 1469), answer=(28, 13)),
    "m-mid": Shape(rate=20.0, cv=1.4, prompt=(900, 420), answer=(300, 160)),
    "mooncake": Shape(rate=3.4, cv=1.0, prompt=(12035, 6909), answer=(343, 300)),
}
TRACES = ("conversation", "code", "m-mid")

_AZURE = {
    "conversation": Path("azure2023") / "AzureLLMInferenceTrace_conv.csv",
    "code": Path("azure2023") / "AzureLLMInferenceTrace_code.csv",
}

Lengths = dict[str, list[float]]
Window = tuple[float, float, float, str, float, float]
"""Start, requests/s, CV, the law of the gaps, its shape and scale in seconds."""


class Client(TypedDict):
    """One client of ServeGen: windows of its rate, lengths by time of day."""

    windows: list[Window]
    lengths: dict[str, Lengths]


_SERVEGEN = Path("servegen") / "m-mid.json.gz"
_MOONCAKE = Path("mooncake") / "conversation_trace.jsonl"


def folder() -> Path | None:
    """Where the traces lie: $GENIE_TRACES, else beside the project, else nowhere."""
    named = os.environ.get("GENIE_TRACES")
    found = Path(named) if named else NEAR
    return found if found.is_dir() else None


def load(name: str, traces: Path | None, count: int, seed: int) -> list[Arrival]:
    """Up to ``count`` requests of a trace, from second 0; drawn when there is no file.

    ``seed`` is for what is drawn; a recorded trace is always the same.
    """
    if traces is not None and name in _AZURE and (traces / _AZURE[name]).is_file():
        return _from_zero(_azure(traces / _AZURE[name], count))
    if traces is not None and name == "m-mid" and (traces / _SERVEGEN).is_file():
        return _from_zero(_servegen(traces / _SERVEGEN, count, seed))
    if traces is not None and name == "mooncake" and (traces / _MOONCAKE).is_file():
        return _from_zero(_mooncake(traces / _MOONCAKE, count))
    return drawn(SHAPES[name], count, seed)


def at_rate(arrivals: Sequence[Arrival], rate: float) -> list[Arrival]:
    """The same requests ``rate`` a second on average: time is stretched.

    >>> pair = [Arrival(at=0, prompt=1, answer=1), Arrival(at=8, prompt=1, answer=1)]
    >>> [one.at for one in at_rate(pair, 0.5)]
    [0.0, 4.0]
    """
    span = arrivals[-1].at - arrivals[0].at
    stretch = len(arrivals) / rate / span
    return [replace(one, at=one.at * stretch) for one in arrivals]


def layered(
    arrivals: Sequence[Arrival], rate: float, count: int, seed: int
) -> list[Arrival]:
    """About ``count`` requests, ``rate`` a second: the trace laid over itself.

    Each layer starts at another moment, as another customer's day would. Unlike a
    trace played faster, bursts keep the length they have beside a GPU's step.
    """
    chance = random.Random(seed)
    span = arrivals[-1].at - arrivals[0].at + len(arrivals) ** -1
    layers = max(1, round(rate * span / len(arrivals)))
    found: list[Arrival] = []
    for _ in range(layers):
        shift = chance.random() * span
        moved = [replace(one, at=(one.at + shift) % span) for one in arrivals]
        found += [one for one in moved if one.at < count / rate]
    return at_rate(sorted(found, key=lambda one: one.at), rate)


def fitting(arrivals: Sequence[Arrival], context: int) -> list[Arrival]:
    """Those a worker with ``context`` tokens a slot would not refuse."""
    return [one for one in arrivals if one.prompt + one.answer <= context]


def drawn(shape: Shape, count: int, seed: int) -> list[Arrival]:
    """``count`` requests of this shape: bursts by a Gamma law, lengths lognormal."""
    chance = random.Random(seed)
    at, found = 0.0, list[Arrival]()
    for _ in range(count):
        prompt, answer = _length(chance, shape.prompt), _length(chance, shape.answer)
        found.append(Arrival(at=at, prompt=prompt, answer=answer))
        at += chance.gammavariate(1 / shape.cv**2, shape.cv**2 / shape.rate)
    return found


def _length(chance: random.Random, mean_median: tuple[float, float]) -> int:
    mean, median = mean_median
    sigma = math.sqrt(2 * math.log(mean / median))
    return max(1, round(chance.lognormvariate(math.log(median), sigma)))


def _from_zero(arrivals: list[Arrival]) -> list[Arrival]:
    first = arrivals[0].at
    return [replace(one, at=one.at - first) for one in arrivals]


def _azure(path: Path, count: int) -> list[Arrival]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]
    return [
        Arrival(
            at=_azure_time(row["TIMESTAMP"]),
            prompt=int(row["ContextTokens"]),
            answer=max(1, int(row["GeneratedTokens"])),
        )
        for row in rows
    ]


def _azure_time(text: str) -> float:
    # Seven digits of a second; the seventh is more than Python reads.
    return datetime.fromisoformat(text[:26] + "+00:00").timestamp()


def _mooncake(path: Path, count: int) -> list[Arrival]:
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(count), strict=False)]
    return [
        Arrival(
            at=row["timestamp"] / 1000,
            prompt=max(1, row["input_length"]),
            answer=max(1, row["output_length"]),
            blocks=tuple(row["hash_ids"]),
        )
        for row in rows
    ]


def _servegen(path: Path, count: int, seed: int) -> list[Arrival]:
    """A window of middling load, each client slowed alike: its CV stays as it was."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        whole = json.load(file)
    pool = [found for client in whole["clients"] for found in _lengths(client)]
    windows = _middling(whole["clients"])
    slower = sum(window[1] for _, window in windows) * WINDOW_S / count
    chance = random.Random(seed)
    found = [
        Arrival(
            at=at,
            prompt=_quantile(whole["quantiles"], lengths["input_tokens"], chance),
            answer=_quantile(whole["quantiles"], lengths["output_tokens"], chance),
        )
        for client, window in windows
        for at in _times(window, slower, chance)
        for lengths in [chance.choice(_lengths(client) or pool)]
    ]
    return sorted(found, key=lambda one: one.at)


def _middling(clients: list[Client]) -> list[tuple[Client, Window]]:
    """The clients active in the window whose total rate is the median of all."""
    by_time: dict[float, list[tuple[Client, Window]]] = {}
    for client in clients:
        for window in client["windows"]:
            by_time.setdefault(window[0], []).append((client, window))
    ordered = sorted(by_time.values(), key=lambda active: sum(w[1] for _, w in active))
    return ordered[len(ordered) // 2]


def _times(window: Window, slower: float, chance: random.Random) -> Iterator[float]:
    _start, rate, _cv, pattern, shape, scale = window
    # A renewal process that starts at its own arrival would start with a crowd.
    at = -chance.random() * slower / rate
    while True:
        if pattern == "Gamma":
            at += chance.gammavariate(shape, scale * slower)
        else:
            at += chance.weibullvariate(scale * slower, shape)
        if at >= WINDOW_S:
            return
        if at >= 0:
            yield at


def _lengths(client: Client) -> list[Lengths]:
    return list(client["lengths"].values())


def _quantile(at: list[float], values: list[float], chance: random.Random) -> int:
    """A length drawn by its quantiles, on straight lines between them."""
    level = chance.random()
    right = max(1, bisect_left(at, level))
    share = (level - at[right - 1]) / (at[right] - at[right - 1])
    value = values[right - 1] + share * (values[right] - values[right - 1])
    return max(1, round(value))
