"""What an engine has in hand, counted by the worker that gave it."""

from genie.contracts.inference import FinishReason, Usage
from workers.bidding.credits import BID_MOST, PREFILL_MOST_S, ModelLoad, bid
from workers.bidding.load import InFlightRequests
from workers.engine.protocol import Finish

MODEL = "m"


def seen(loads: InFlightRequests, now: float = 0.0) -> ModelLoad:
    return loads.of(MODEL, slots=4, now=now, dither=0.0)


def finish(first_token_s: float = 1.0, tokens: int = 11) -> Finish:
    usage = Usage(prompt_tokens=1, completion_tokens=tokens)
    return Finish(
        id="a",
        reason=FinishReason.STOP,
        usage=usage,
        first_token_s=first_token_s,
        total_s=first_token_s + 1.0,
    )


def learnt() -> InFlightRequests:
    """One request of 1000 bytes was read in a second and answered by second two."""
    loads = InFlightRequests()
    loads.begin(MODEL, "first", 1000, now=0.0)
    loads.heard(MODEL, "first", now=1.0)
    loads.finished(MODEL, "first", finish(), now=2.0)
    return loads


def test_a_model_without_requests_is_free_and_bids_to_be_measured() -> None:
    idle = ModelLoad(model=MODEL, slots=4, in_flight=0, bid=BID_MOST, measured=False)
    assert seen(InFlightRequests()) == idle


def test_a_request_is_counted_from_the_moment_it_is_given() -> None:
    loads = InFlightRequests()
    loads.begin(MODEL, "a", 100, now=0.0)
    assert seen(loads).in_flight == 1
    assert seen(loads).prefill_queued_s >= PREFILL_MOST_S
    loads.end(MODEL, "a")
    loads.end(MODEL, "a")
    assert seen(loads) == seen(InFlightRequests())


def test_what_yields_is_told_apart_and_its_pauses_are_no_speed() -> None:
    loads = learnt()
    loads.begin(MODEL, "batch", 100, now=3.0, yields=True)
    assert (seen(loads, now=9.0).in_flight, seen(loads, now=9.0).yielding) == (1, 1)
    loads.begin(MODEL, "urgent", 100, now=3.0)
    loads.heard(MODEL, "batch", now=9.0)  # the urgent one would have been read first
    loads.end(MODEL, "batch")
    loads.end(MODEL, "urgent")
    assert seen(loads, now=1.0).bid == bid(1000.0, in_flight=0, slots=4, dither=0.0)


def test_batch_work_alone_tells_the_speed_too() -> None:
    loads = learnt()
    before = seen(loads, now=2.0).bid
    loads.begin(MODEL, "batch", 8000, now=3.0, yields=True)
    loads.heard(MODEL, "batch", now=3.1)
    loads.end(MODEL, "batch")
    assert seen(loads, now=3.1).bid > before


def test_a_long_prompt_is_known_as_such_before_the_engine_has_looked_at_it() -> None:
    loads = learnt()
    loads.begin(MODEL, "long", 2000, now=5.0)
    assert seen(loads, now=5.5).prefill_queued_s == 1.5
    assert loads.heard(MODEL, "long", now=7.0)
    assert seen(loads, now=7.0).prefill_queued_s == 0.0


def test_only_the_token_that_makes_room_for_another_prompt_is_news() -> None:
    loads = learnt()
    loads.begin(MODEL, "short", 10, now=5.0)
    assert not loads.heard(MODEL, "short", now=5.01)
    loads.begin(MODEL, "long", 2000, now=6.0)
    assert loads.heard(MODEL, "long", now=6.2)
    assert not loads.heard(MODEL, "long", now=6.3)


def test_an_answer_that_came_in_one_piece_teaches_as_much() -> None:
    loads = InFlightRequests()
    loads.begin(MODEL, "a", 1000, now=0.0)
    loads.finished(MODEL, "a", finish(first_token_s=1.0), now=9.0)
    loads.begin(MODEL, "b", 1000, now=10.0)
    assert seen(loads, now=10.0).prefill_queued_s == 1.0


def test_the_bid_is_of_the_measured_speed_of_reading() -> None:
    loads = learnt()
    before = bid(1000.0, in_flight=0, slots=4, dither=0.0)
    assert seen(loads, now=1.0).bid == before < BID_MOST
    loads.begin(MODEL, "a", 4000, now=5.0)
    loads.heard(MODEL, "a", now=5.1)
    loads.end(MODEL, "a")
    assert seen(loads, now=5.1).bid > before


def test_the_first_word_of_a_request_that_has_left_changes_nothing() -> None:
    loads = learnt()
    loads.begin(MODEL, "a", 2000, now=5.0)
    loads.end(MODEL, "a")
    loads.heard(MODEL, "a", now=6.0)
    assert seen(loads, now=6.0) == seen(learnt(), now=6.0)
