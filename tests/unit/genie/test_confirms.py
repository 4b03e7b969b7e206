"""Letters are counted in the order they leave in, whoever sends them."""

import threading
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from genie.messaging.confirms import Confirms

BOUND_S = 10.0


def test_a_letter_leaves_before_the_next_one_is_counted() -> None:
    channel: Any = SimpleNamespace(
        confirm_select=lambda: None, events=defaultdict(set[Any])
    )
    confirms = Confirms[str](channel)
    is_leaving, is_second_gone = threading.Event(), threading.Event()
    left: list[str] = []

    def slow() -> bool:
        is_leaving.set()
        is_second_gone.wait(0.05)  # one that waits for nobody leaves in between
        left.append("first")
        return True

    def quick() -> bool:
        left.append("second")
        is_second_gone.set()
        return True

    first = threading.Thread(target=confirms.send, args=("first", slow))
    first.start()
    assert is_leaving.wait(BOUND_S)
    confirms.send("second", quick)
    first.join(BOUND_S)
    assert left == confirms.waiting == ["first", "second"]
