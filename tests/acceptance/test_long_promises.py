"""The promises of docs/promises.md in their long forms: ``make chaos`` runs them.

Each says on stdout what it did and saw, and with which seed where one is used.
"""

import os
import random
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psutil
import psycopg
import pytest

from acceptance.test_faults import worker_of
from acceptance.test_promises import POISON
from fixtures.chaos import Load, judge
from fixtures.fleet import Fleet, wait_until
from fixtures.nodes import PostgresNode, RabbitNode
from genie import Client, Job
from genie.contracts.inference import JobState
from genie.errors import GenieError, JobFailed

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

SEED = 1
CHAT_SLOTS = 17
BACKGROUND = 2 * (CHAT_SLOTS - 1)
"""Jobs that run at once on both workers, with a slot left for what comes between."""

WORKERS = ("atlas", "borealis")
MIB = 1024 * 1024

Ask = Callable[[str, list[object]], list[tuple[object, ...]]]


def tell(promise: str, **seen: object) -> None:
    """One line of what a promise's test saw."""
    said = " ".join(f"{name}={value}" for name, value in seen.items())
    sys.stdout.write(f"{promise}: {said}\n")


def spread(values: list[float]) -> str:
    """Median and largest of some seconds."""
    return f"median {statistics.median(values):.3f} s, most {max(values):.3f} s"


@pytest.fixture
def ask(postgres_url: str) -> Iterator[Ask]:
    """A question to the database of the fleet."""
    address = postgres_url.replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as session:
        yield lambda sql, values: session.execute(sql.encode(), values).fetchall()


@pytest.fixture
def both(fleet: Fleet) -> Fleet:
    """The fleet with both workers ready, whatever the test before did to them."""
    fleet.wait_ready("echo:small", workers=2, timeout_s=90)
    return fleet


def submitted(client: Client, count: int, *, tokens: int) -> list[Job]:
    """So many jobs, accepted almost at once."""

    def submit(number: int) -> Job:
        return client.submit(f"j{number}", persona="chat", max_tokens=tokens)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(submit, range(count)))


def running_on(ask: Ask, jobs: list[Job]) -> Counter[str]:
    rows = ask(
        "SELECT worker FROM job WHERE id = ANY(%s) AND state = 'running'",
        [[job.id for job in jobs]],
    )
    return Counter(str(worker) for (worker,) in rows)


def all_run(ask: Ask, jobs: list[Job]) -> Counter[str]:
    """Wait until every job runs; how many on which worker."""

    def is_so() -> bool:
        return running_on(ask, jobs).total() == len(jobs)

    wait_until(is_so, 30, "every job runs", every_s=0.02)
    return running_on(ask, jobs)


def wait_moved(ask: Ask, jobs: list[Job], victim: str) -> None:
    """Return once no job is recorded as the victim's."""
    left = "SELECT count(*) FROM job WHERE id = ANY(%s) AND worker = %s"
    ids = [job.id for job in jobs]

    def are_gone() -> bool:
        return ask(left, [ids, victim])[0][0] == 0

    wait_until(are_gone, 30, f"{victim}'s jobs run elsewhere", every_s=0.01)


def test_p3_a_dead_worker_s_work_starts_elsewhere_within_two_seconds(
    both: Fleet, client: Client, ask: Ask
) -> None:
    took: list[float] = []
    for _ in range(20):
        jobs = submitted(client, 16, tokens=400)
        victim = max(all_run(ask, jobs).items(), key=lambda one: one[1])[0]
        began = time.monotonic()
        both.kill(victim)
        wait_moved(ask, jobs, victim)
        took.append(time.monotonic() - began)
        ends = [job.result(timeout=60).usage.completion_tokens for job in jobs]
        assert ends == [400] * 16
        both.start_worker(victim)
        both.wait_ready("echo:small", workers=2)
    tell("P3", kills=len(took), all_moved=spread(took))
    assert max(took) < 2


def test_p5_an_engine_crash_costs_no_other_model(fleet: Fleet, client: Client) -> None:
    fleet.wait_ready("echo:small", workers=2, timeout_s=90)
    fleet.kill("borealis", signal.SIGTERM)
    calm: list[float] = []
    beside: list[float] = []
    back: list[float] = []
    for _ in range(10):
        # From the third in ten minutes on a worker rests from the model: a fresh one.
        fleet.kill("atlas", signal.SIGTERM)
        fleet.start_worker("atlas")
        host, large = two_engines(fleet, client, calm)
        for _ in range(2):
            back.append(crash_small(client, host, large, beside))
        assert large.is_running()
    fleet.start_worker("borealis")
    tell(
        "P5",
        kills=len(back),
        answered_after=spread(back),
        neighbour_p50=f"{statistics.median(beside) / statistics.median(calm):.2f}x",
        neighbour_p99=f"{p99(beside) / p99(calm):.2f}x",
    )
    assert max(back) < 5 + 1 + 2  # the restart; the answer's second; the pause after
    assert statistics.median(beside) < 1.2 * statistics.median(calm)


def two_engines(
    fleet: Fleet, client: Client, calm: list[float]
) -> tuple[psutil.Process, psutil.Process]:
    """The worker with both models loaded, and the engine that answers for the large."""
    fleet.wait_ready("echo:small", timeout_s=90)
    client.submit("load it", persona="heavy", max_tokens=1).result(timeout=60)
    host = psutil.Process(fleet.pid("atlas"))
    engines = host.children(recursive=True)
    before = {engine.pid: switches(engine) for engine in engines}
    calm += [asked_large(client) for _ in range(20)]
    return host, max(engines, key=lambda one: switches(one) - before[one.pid])


def switches(process: psutil.Process) -> int:
    """How often it was woken: the one that works more than the idle one."""
    return int(process.num_ctx_switches().voluntary)


def asked_large(client: Client) -> float:
    """Seconds a short answer of the large model takes."""
    began = time.monotonic()
    client.ask("b", persona="heavy", max_tokens=5)
    return time.monotonic() - began


def crash_small(
    client: Client, host: psutil.Process, large: psutil.Process, beside: list[float]
) -> float:
    """Kill the small model's engine at work; seconds until its job is answered."""
    job = client.submit("a", persona="chat", max_tokens=50)
    worker_of(client, job.id)
    for child in host.children(recursive=True):
        if child.pid != large.pid:
            child.kill()
    began = time.monotonic()
    while not job.refresh().status.is_terminal:
        beside.append(asked_large(client))
    assert job.result().usage.completion_tokens == 50
    return time.monotonic() - began


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def test_p6_a_broker_restart_loses_nothing_and_work_goes_on_in_ten_seconds(
    both: Fleet, client: Client, rabbitmq: RabbitNode, ask: Ask
) -> None:
    took: list[float] = []
    # As fast as two cores can also answer: what is accepted has to end in two minutes.
    with Load(both, clients=8, seed=SEED, pause_s=(0.1, 0.4)) as load:
        began = time.monotonic()
        for _ in range(10):
            time.sleep(2)
            rabbitmq.kill()
            rabbitmq.start()
            up, up_at = time.monotonic(), datetime.now(UTC)
            wait_until(lambda at=up_at: ended_since(ask, at), 60, "work", every_s=0.05)  # type: ignore[misc]  # a default keeps the loop's value
            took.append(time.monotonic() - up)
        rate = len(load.accepted.words) / (time.monotonic() - began)
    verdict = judge(client, load.accepted)
    tell(
        "P6",
        seed=SEED,
        kills=10,
        per_s=round(rate, 1),
        accepted=verdict.ends.total(),
        refused=load.accepted.refused,
        back=spread(took),
    )
    assert (verdict.lost, verdict.wrong, verdict.doubled) == (0, (), ())
    assert max(took) < 10


def ended_since(ask: Ask, at: datetime) -> bool:
    found = ask("SELECT count(*) FROM job WHERE finished_at > %s", [at])
    return bool(found[0][0])


@pytest.mark.parametrize("how", ["stopped", "alarm"])
def test_p7_without_a_broker_200_submits_are_kept_and_run_afterwards(
    both: Fleet, rabbitmq: RabbitNode, how: str
) -> None:
    took, jobs, refused = [], [], 0
    with Client(url=both.url, api_key=both.api_key, retry_s=0.0) as client:
        client.ask("open the connections", max_tokens=1)
        away(rabbitmq, how)
        try:
            for number in range(200):
                began = time.monotonic()
                try:
                    jobs.append(
                        client.submit(f"k{number}", persona="chat", max_tokens=2)
                    )
                except GenieError:
                    refused += 1
                took.append(time.monotonic() - began)
        finally:
            back(rabbitmq, how)
        texts = [job.result(timeout=120).text.split()[0] for job in jobs]
        numbers = {int(text.removeprefix("k")) for text in texts}
    tell("P7", how=how, accepted=len(jobs), refused=refused, answered_in=spread(took))
    assert len(numbers) == len(jobs)
    assert max(took) < 1


def away(rabbitmq: RabbitNode, how: str) -> None:
    if how == "stopped":
        rabbitmq.stop()
    else:
        rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")


def back(rabbitmq: RabbitNode, how: str) -> None:
    if how == "stopped":
        rabbitmq.start()
    else:
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")


def test_p8_workers_work_on_while_the_whole_cloud_is_dead_for_a_minute(
    both: Fleet, client: Client, ask: Ask
) -> None:
    jobs = submitted(client, 72, tokens=300)
    wait_until(
        lambda: running_on(ask, jobs).total() > CHAT_SLOTS, 30, "busy", every_s=0.02
    )
    for name in ("web", "brain", "beat"):
        both.kill(name)
    time.sleep(60)
    died_with = running_on(ask, jobs).total()
    both.start_web()
    both.start_brain()
    both.start_beat()
    began = time.monotonic()
    ends = Counter(job.wait(120).status for job in jobs)
    took = time.monotonic() - began
    tell(
        "P8", jobs=len(jobs), open_at_death=died_with, all_known_after_s=round(took, 1)
    )
    assert ends == {JobState.COMPLETED: len(jobs)}
    # 72 jobs of 6 s on 30 slots are over in the minute: only their recording waited
    assert all(client.job(job.id).details.attempts == 1 for job in jobs)


def test_p9_every_202_has_its_row_whenever_the_database_dies(
    both: Fleet, client: Client, postgres: PostgresNode
) -> None:
    chance = random.Random(SEED)
    with Load(both, clients=8, seed=SEED, pause_s=(0.0, 0.05)) as load:
        for _ in range(10):
            time.sleep(chance.uniform(0.5, 3.0))
            postgres.kill()
            postgres.start()
    wait_until(both.is_ready, 60, "the cloud is back")
    verdict = judge(client, load.accepted)
    tell(
        "P9",
        seed=SEED,
        crashes=10,
        accepted=verdict.ends.total(),
        refused=load.accepted.refused,
    )
    assert (verdict.lost, verdict.wrong, verdict.doubled) == (0, (), ())


def test_p11_a_poisonous_prompt_ends_at_its_third_crash_with_three_workers(
    fleet: Fleet, client: Client
) -> None:
    # Fresh ones: at the third death in ten minutes a worker rests from the model, and
    # the persona then goes to the next one, which this prompt does not kill.
    for name in WORKERS:
        fleet.kill(name, signal.SIGTERM)
    for name in (*WORKERS, "cygnus"):
        fleet.start_worker(name)
    fleet.wait_ready("echo:small", workers=2, timeout_s=90)
    for turn in range(2):
        before = submitted(client, 6, tokens=40)
        poison = client.submit(f"{POISON} {turn}", max_tokens=5)
        after = submitted(client, 6, tokens=40)
        with pytest.raises(JobFailed, match="engine died 3 times"):
            poison.result(timeout=100)
        ended = client.job(poison.id).details
        assert ended.error is not None
        assert (ended.error.code, ended.attempts) == ("poison", 3)
        for job in (*before, *after):
            assert job.result(timeout=100).usage.completion_tokens == 40
    tell("P11", poisons=2, crashes_each=3, neighbours=24)
    fleet.kill("cygnus", signal.SIGTERM)
    fleet.wait_ready("echo:small", workers=2, timeout_s=90)


def test_p18_a_graceful_stop_redelivers_nothing_ten_times(
    both: Fleet, client: Client, ask: Ask
) -> None:
    fewest = BACKGROUND
    for turn in range(10):
        jobs = submitted(client, BACKGROUND, tokens=400)
        on = all_run(ask, jobs)
        both.kill(WORKERS[turn % 2], signal.SIGTERM)
        for job in jobs:
            assert job.result(timeout=60).usage.completion_tokens == 400
            assert client.job(job.id).details.attempts == 1
        assert set(on) == set(WORKERS)
        both.start_worker(WORKERS[turn % 2])
        both.wait_ready("echo:small", workers=2)
        fewest = min(fewest, *on.values())
    tell("P18", stops=10, running=BACKGROUND, on_each_at_least=fewest, redelivered=0)


def test_p18_a_second_signal_gives_back_and_loses_nothing_ten_times(
    both: Fleet, client: Client, ask: Ask
) -> None:
    for turn in range(10):
        jobs = submitted(client, BACKGROUND, tokens=400)
        all_run(ask, jobs)
        name = WORKERS[turn % 2]
        os.kill(both.pid(name), signal.SIGTERM)
        time.sleep(0.5)  # Celery counts two signals in one moment as one
        stopping = threading.Thread(target=both.kill, args=(name, signal.SIGTERM))
        stopping.start()
        for job in jobs:
            assert job.result(timeout=60).usage.completion_tokens == 400
        stopping.join()
        both.start_worker(name)
        both.wait_ready("echo:small", workers=2)
    tell("P18", second_signals=10, lost=0)
