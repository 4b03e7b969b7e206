"""How long one pass of a GPU takes, by the tokens in it.

Measured times of one layer of Llama 2 7B (tensor parallel 1, without attention) from
Vidur (Agrawal et al., MLSys 2024, MIT licence), times its 32 layers. Without that file:
a straight line over a floor, fitted to it.
"""

import csv
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

MODEL = "Llama-2-7b-hf"
LAYERS = 32
FILE = Path("vidur") / "linear_layer_times.csv"

FITTED_MS = {
    "a40": (0.75, 0.0040),
    "a100": (0.285, 0.0020),
    "h100": (0.175, 0.00063),
}
"""The floor and the cost of a token, both for one layer in milliseconds."""

GPUS = tuple(FITTED_MS)


class StepTimes:
    """Seconds of one pass, between measured points on a straight line.

    >>> times = StepTimes([(1, 0.01), (101, 0.02)])
    >>> times.seconds(51)
    0.015
    """

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        self._tokens = [tokens for tokens, _ in points]
        self._seconds = [seconds for _, seconds in points]
        self._known: dict[int, float] = {}

    def seconds(self, tokens: int) -> float:
        """The time of a pass over ``tokens`` tokens."""
        if tokens not in self._known:
            self._known[tokens] = self._between(tokens)
        return self._known[tokens]

    def prefill_s(self, tokens: int, budget: int) -> float:
        """The time to read a prompt alone, ``budget`` tokens a pass."""
        whole, rest = divmod(tokens, budget)
        return whole * self.seconds(budget) + (self.seconds(rest) if rest else 0.0)

    def _between(self, tokens: int) -> float:
        right = bisect_left(self._tokens, tokens)
        if right == 0:
            return self._seconds[0]
        if right == len(self._tokens):
            return self._seconds[-1] * tokens / self._tokens[-1]
        (x0, x1), (y0, y1) = (
            self._tokens[right - 1 : right + 1],
            self._seconds[right - 1 : right + 1],
        )
        return y0 + (y1 - y0) * (tokens - x0) / (x1 - x0)


def load(folder: Path | None) -> dict[str, StepTimes]:
    """Step times by GPU, from the traces' ``folder`` or fitted (None)."""
    if folder is None or not (folder / FILE).is_file():
        return {gpu: StepTimes(_fitted(gpu)) for gpu in GPUS}
    points: dict[str, list[tuple[int, float]]] = {gpu: [] for gpu in GPUS}
    with (folder / FILE).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["model"], row["tp"]) == (MODEL, "1"):
                seconds = float(row["layer_ms_median_sum"]) * LAYERS / 1000
                points[row["gpu"]].append((int(row["num_tokens"]), seconds))
    return {gpu: StepTimes(sorted(found)) for gpu, found in points.items()}


def _fitted(gpu: str) -> list[tuple[int, float]]:
    floor, slope = FITTED_MS[gpu]
    return [
        (tokens, max(floor, slope * tokens) * LAYERS / 1000)
        for tokens in (1, 64, 128, 256, 512, 1024, 2048, 4096)
    ]
