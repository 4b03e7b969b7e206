"""Which slot a prompt gets, and what it finds there."""

from hypothesis import given
from hypothesis import strategies as st

from genie.contracts.inference import WorkClass
from workers.engine.child.scheduler import (
    LEAST,
    Sequence,
    Slots,
    common_prefix_length,
    waits,
)

PERSONA = list(range(1000, 1040))


def sequence(name: str, tokens: list[int], *, scope: str = "acme") -> Sequence:
    return Sequence(
        id=name,
        work_class=WorkClass.INTERACTIVE,
        prompt=len(tokens),
        limit=8,
        deadline=1e9,
        scope=scope,
        tokens=list(tokens),
    )


def served(slots: Slots, name: str, tokens: list[int], *, scope: str = "acme") -> int:
    """Run a prompt to its end; the slot that keeps it."""
    one = sequence(name, tokens, scope=scope)
    slots.give(one)
    slots.begin(one)
    slot, one.computed = one.slot, one.prompt
    slots.release(one, keep=True)
    return slot


def test_the_next_turn_of_a_conversation_goes_on_in_its_slot() -> None:
    slots = Slots(3)
    first = [*PERSONA, 1, 2, 3]
    slot = served(slots, "turn 1", first)
    served(slots, "someone else", [9] * 30)
    turn = sequence("turn 2", [*first, 4, 5])
    slots.give(turn)
    assert (turn.slot, turn.computed) == (slot, len(first))
    assert slots.begin(turn) is None


def test_the_same_prompt_again_computes_only_its_last_token() -> None:
    slots = Slots(1)
    served(slots, "a", PERSONA)
    again = sequence("b", PERSONA)
    slots.give(again)
    assert again.computed == len(PERSONA) - 1


def test_a_short_common_start_is_copied_and_the_long_conversation_kept() -> None:
    slots = Slots(2)
    long = served(slots, "long", [*PERSONA, *range(200)])
    other = sequence("other", [*PERSONA, 7])
    slots.give(other)
    copy = slots.begin(other)
    assert copy is not None
    assert (copy.source, copy.target, copy.length) == (long, 1 - long, len(PERSONA))
    assert other.reused == len(PERSONA)


def test_a_running_prompt_lends_what_it_has_computed() -> None:
    slots = Slots(2)
    running, late = sequence("a", [*PERSONA, 1]), sequence("b", [*PERSONA, 2])
    slots.give(running)
    slots.begin(running)
    running.computed = 25
    slots.give(late)
    copy = slots.begin(late)
    assert copy is not None
    assert copy.length == 25


def test_a_prompt_waits_for_the_one_that_computes_the_same_start() -> None:
    slots = Slots(2)
    first, second = sequence("a", [*PERSONA, 1]), sequence("b", [*PERSONA, 2])
    slots.give(first)
    slots.give(second)
    assert waits(second, [first])
    first.computed = len(PERSONA)
    assert not waits(second, [first])


def test_nobody_waits_for_one_that_has_ended() -> None:
    slots = Slots(2)
    first, second = sequence("a", [*PERSONA, 1]), sequence("b", [*PERSONA, 2])
    slots.give(first)
    slots.give(second)
    assert waits(second, [first])
    slots.release(first, keep=False)
    assert not waits(second, [])


def test_another_scope_finds_nothing_and_waits_for_nobody() -> None:
    slots = Slots(3)
    served(slots, "a", PERSONA, scope="acme")
    running = sequence("b", PERSONA, scope="acme")
    slots.give(running)
    other = sequence("c", PERSONA, scope="globex")
    slots.give(other)
    assert slots.begin(other) is None
    assert not waits(other, [running])
    assert (other.computed, other.reused) == (0, 0)


def test_what_a_failure_left_behind_is_not_reused() -> None:
    slots = Slots(1)
    broken = sequence("a", PERSONA)
    slots.give(broken)
    broken.computed = broken.prompt
    slots.release(broken, keep=False)
    again = sequence("b", PERSONA)
    slots.give(again)
    assert again.computed == 0


def test_the_slot_unused_for_longest_is_given_away_first() -> None:
    slots = Slots(3)
    prompts = [[base + at for at in range(40)] for base in (0, 100, 200)]
    held = [served(slots, str(at), prompt) for at, prompt in enumerate(prompts)]
    served(slots, "0 again", prompts[0])
    newcomer = sequence("new", [900 + at for at in range(40)])
    slots.give(newcomer)
    assert newcomer.slot == held[1]


def test_a_few_tokens_in_common_are_left_alone() -> None:
    slots = Slots(2)
    served(slots, "a", PERSONA)
    other = sequence("b", [*PERSONA[: LEAST - 1], *range(30)])
    slots.give(other)
    assert slots.begin(other) is None
    assert other.computed == 0


@given(
    st.lists(st.integers(0, 2), max_size=12),
    st.lists(st.integers(0, 2), max_size=12),
    st.integers(0, 14),
)
def test_what_two_prompts_share_is_counted_right(
    left: list[int], right: list[int], most: int
) -> None:
    expected = 0
    for one, other in zip(left[:most], right, strict=False):
        if one != other:
            break
        expected += 1
    assert common_prefix_length(left, right, most) == expected
