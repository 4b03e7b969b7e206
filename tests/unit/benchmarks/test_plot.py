"""The picture is well-formed and says what it was given."""

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulator import plot

PANELS = [("code & more", {"counter": 0.5, "credits": 0.25}), ("b", {"credits": 900.0})]


def test_every_panel_has_its_name_its_bars_and_their_seconds() -> None:
    root = ElementTree.fromstring(plot.svg("title", PANELS))
    texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:4] == ["title", "code & more", "counter", "0.5 s"]
    assert "900 s" in texts


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_longer_time_is_never_a_shorter_bar(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert 0.0 <= plot.share(less) <= plot.share(more) <= 1.0
