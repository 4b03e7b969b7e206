"""P1 and P2: whatever dies, what was accepted ends once.

The short form runs with every test run, the long form with ``make chaos``. A seed
fixes what is broken in which order; when it hits is up to the machine.
"""

import os
import sys

import pytest

from fixtures.chaos import Havoc, Load, judge
from fixtures.fleet import Fleet, wait_until
from fixtures.nodes import PostgresNode, RabbitNode

HEARTBEAT_S = 2.0  # as in conftest.py
LONG_S = float(os.environ.get("GENIE_CHAOS_S", "150"))
SEEDS = [int(seed) for seed in os.environ.get("GENIE_CHAOS_SEEDS", "1 2 3").split()]
CHAT_SLOTS = 16
"""At 20 ms a token the four slots the planner gives end fifteen jobs a second, fewer
than eight clients submit: what is broken must be all that keeps work waiting."""

SHORT_S, SHORT_SEED = 20.0, 7


def chaos(
    fleet: Fleet, havoc: Havoc, *, clients: int, seed: int, seconds: float
) -> None:
    # About thirty submits a second: two cores have to answer them as well.
    pause_s = (0.02 * clients, 0.06 * clients)
    with Load(fleet, clients=clients, seed=seed, pause_s=pause_s) as load:
        havoc.run(seconds)
    accepted = load.accepted
    wait_until(fleet.is_ready, 60, "the cloud is back")
    with fleet.client() as client:
        verdict = judge(client, accepted)
    sys.stdout.write(
        f"chaos seed={seed} seconds={seconds:.0f} broken={havoc.done} "
        f"accepted={len(accepted.words)} refused={accepted.refused} "
        f"ends={ {state.value: n for state, n in verdict.ends.items()} }\n"
    )
    assert (verdict.lost, verdict.wrong, verdict.doubled) == (0, (), ())
    fleet.wait_ready("echo:small", workers=2, timeout_s=90)


@pytest.mark.timeout(300)
def test_what_was_accepted_ends_once_whatever_dies_for_a_while(
    fleet: Fleet, rabbitmq: RabbitNode, postgres: PostgresNode
) -> None:
    havoc = Havoc(fleet, rabbitmq, postgres, seed=SHORT_SEED)
    chaos(fleet, havoc, clients=4, seed=SHORT_SEED, seconds=SHORT_S)


@pytest.mark.chaos
@pytest.mark.timeout(LONG_S + 600)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_accepted_ends_once_whatever_dies(
    fleet: Fleet,
    rabbitmq: RabbitNode,
    postgres: PostgresNode,
    seed: int,
) -> None:
    havoc = Havoc(fleet, rabbitmq, postgres, seed=seed)
    chaos(fleet, havoc, clients=8, seed=seed, seconds=LONG_S)
