"""Two releases work together, in every mix and with work under way between them.

The fleet starts as the release before (`previous`) and ends as this one; each test says
by its fixture how far the upgrade is, and any of them may run alone.

The first release, f74c802, reads strictly and refuses every schema but its own at its
start. Beside it hold all mixes below in which its processes started before the
migration. These begin to hold with the release after it, and are tested as soon as
`previous` names that one:

- a process of the release before starts again on this release's schema;
- its `/readyz` stays 200 on this release's schema;
- this release sends it a field that it does not know.
"""

import signal
from collections.abc import Callable
from functools import partial

import pytest

import genie
from fixtures.fleet import wait_until
from fixtures.later import LATER
from fixtures.previous_fleet import PreviousFailed
from fixtures.receiver import receiving
from fixtures.upgrade import (
    ACROSS,
    ELDER,
    LINES,
    NEWER,
    PLACES,
    REPEATED,
    SOON_S,
    STREAMED,
    Upgrade,
    answered_by,
    running_on,
)
from genie.sdk.chat import AskOptions

pytestmark = pytest.mark.timeout(600)

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
TOKENS = 30
"""Of an answer that takes long enough to keep a place busy while others come."""

BOTH = {ELDER, NEWER}

Clients = tuple[genie.Client, genie.Client]


# The old cloud, with a worker of each release.


def test_a_worker_of_this_release_serves_the_cloud_before_it(
    old_cloud: genie.Client,
) -> None:
    states = {worker.name: worker.state for worker in old_cloud.workers()}
    assert states == {ELDER: "online", NEWER: "online"}
    assert answered_by(lambda: old_cloud.ask("one two", max_tokens=TOKENS)) == BOTH


KINDS: dict[str, Callable[[genie.Client], genie.Result]] = {
    "several": lambda client: client.ask("one", max_tokens=TOKENS, n=2, logprobs=1),
    "tools": lambda client: client.ask("one", max_tokens=TOKENS, tools=[TOOL]),
    "async": lambda client: client.submit("one", max_tokens=TOKENS).result(SOON_S),
    "stream": lambda client: read(client.stream("one", max_tokens=TOKENS)),
    "sampled": lambda client: client.ask(
        "one", max_tokens=TOKENS, temperature=0.5, top_p=0.9, seed=7, stop=["never"]
    ),
}


def read(stream: genie.Stream) -> genie.Result:
    """The result of a stream that was read to its end."""
    with stream:
        "".join(stream)
    return stream.result


@pytest.mark.parametrize("kind", KINDS)
def test_both_workers_answer_every_kind_of_request_there(
    old_cloud: genie.Client, kind: str
) -> None:
    assert answered_by(lambda: KINDS[kind](old_cloud)) == BOTH


def test_texts_are_embedded_there(old_cloud: genie.Client) -> None:
    assert len(old_cloud.embed(["a cat", "a dog"]).vectors) == 2


def test_the_cloud_before_cancels_work_on_a_worker_of_this_release(
    old_cloud: genie.Client,
) -> None:
    job = running_on(old_cloud, NEWER).cancel()
    assert job.status.value == "cancelled"
    wait_until(lambda: slots_of(old_cloud, NEWER) == 0, SOON_S, "its slot is free")


def slots_of(client: genie.Client, name: str) -> int:
    """Requests that a worker runs, as it said last."""
    held = next(w.models for w in client.workers() if w.name == name)
    return sum(model.in_flight for model in held)


# Two clouds beside each other.


def test_a_job_of_either_web_is_the_same_at_the_other(two_clouds: Clients) -> None:
    for one, other in (two_clouds, two_clouds[::-1]):
        job = one.submit("seen by both", max_tokens=4, metadata={"ticket": "7"})
        assert other.job(job.id).result(SOON_S).text == job.result(SOON_S).text
        assert other.fetch_job(job.id) == one.fetch_job(job.id)
        assert job.id in [found.id for found in other.jobs(limit=20)]
        names = [[e.event for e in w.job_timeline(job.id)] for w in two_clouds]
        assert names[0] == names[1]


def test_a_job_of_either_web_is_read_and_cancelled_through_the_other(
    two_clouds: Clients,
) -> None:
    for one, other in (two_clouds, two_clouds[::-1]):
        job = one.submit(STREAMED, max_tokens=60)
        assert "".join(other.job(job.id).stream()).split() == STREAMED.split() * 10
        for worker in BOTH:
            running = running_on(one, worker)
            assert other.job(running.id).cancel().status.value == "cancelled"
            again = other.job(running.id).retry()
            assert again.cancel().status.value == "cancelled"


def test_the_same_key_gives_the_same_job_at_both_webs(two_clouds: Clients) -> None:
    made = [
        client.submit("once", max_tokens=2, idempotency_key="the same").id
        for client in two_clouds
    ]
    assert len(set(made)) == 1


def test_two_brains_of_two_releases_record_each_job_once(two_clouds: Clients) -> None:
    jobs = [
        client.submit(f"word{n}", max_tokens=2)
        for n in range(30)
        for client in two_clouds
    ]
    texts = [job.result(SOON_S).text.split()[0] for job in jobs]
    assert texts == [f"word{n}" for n in range(30) for _ in two_clouds]
    assert {job.refresh().details.attempts for job in jobs} == {1}


def test_batches_of_either_web_end_and_are_read_at_the_other(
    two_clouds: Clients,
) -> None:
    made = [client.batch(["a", "b", "c"], max_tokens=2) for client in two_clouds]
    for batch, other in zip(made, two_clouds[::-1], strict=True):
        found = other.batches.get(batch.id).wait(SOON_S)
        assert found.status.value == "completed"
        assert sorted(line.custom_id for line in found.results()) == ["1", "2", "3"]


def test_schedules_of_either_web_run_and_tell_their_webhooks(
    two_clouds: Clients,
) -> None:
    with receiving() as receiver:
        for number, (one, other) in enumerate((two_clouds, two_clouds[::-1])):
            one.schedule(
                "news of {{date}}",
                cron="0 0 1 1 *",
                name=f"news {number}",
                webhook=receiver.url,
                webhook_secret="only-for-tests",
                max_tokens=2,
            )
            schedule = next(s for s in schedules(other) if s.name == f"news {number}")
            schedule.run()
            wait_until(partial(has_run, one, schedule), SOON_S, "the run has ended")
        wait_until(lambda: len(receiver.told) == 2, SOON_S, "both were told")
    assert {headers["x-genie-event"] for _, headers, _ in receiver.told} == {
        "job.completed"
    }


def has_run(client: genie.Client, schedule: genie.Schedule) -> bool:
    """Whether the job of its one run has completed."""
    (run,) = schedule.runs()
    if run.job_id is None:
        return False
    return client.fetch_job(run.job_id).status.value == "completed"


def schedules(client: genie.Client) -> tuple[genie.Schedule, ...]:
    """Every schedule of the org."""
    return client.schedules()


def test_killed_processes_of_this_release_are_missed_by_nobody(
    upgrade: Upgrade, two_clouds: Clients
) -> None:
    jobs = [client.submit("k i l l", max_tokens=40) for client in two_clouds * 4]
    upgrade.new.kill("brain")
    upgrade.new.kill("web")
    jobs += [two_clouds[0].submit("k i l l", max_tokens=40) for _ in range(4)]
    upgrade.new.start_web()
    upgrade.new.start_brain()
    wait_until(upgrade.new.is_ready, SOON_S, "the new web is back")
    for job in jobs:
        assert two_clouds[1].job(job.id).result(SOON_S).text.split() == [*"kill"] * 10


def test_the_web_before_is_ready_on_this_schema(
    upgrade: Upgrade, two_clouds: Clients
) -> None:
    is_ready = upgrade.old.call("is_ready")
    if upgrade.release.is_strict and upgrade.moved_schema():
        assert not is_ready, "begins to hold once `previous` names a later release"
    else:
        assert is_ready


def test_a_process_of_the_release_before_may_start_on_this_schema(
    upgrade: Upgrade, two_clouds: Clients
) -> None:
    if upgrade.release.is_strict and upgrade.moved_schema():
        with pytest.raises(PreviousFailed, match="this release needs 0005"):
            upgrade.old.command("genie", "db", "check")
        return
    upgrade.old.command("genie", "db", "check")
    upgrade.old.call("start_brain", "second")
    upgrade.old.stop("second")


# The new cloud, with a worker of each release.


def test_what_was_under_way_at_each_change_has_ended_once(
    upgrade: Upgrade, new_cloud: genie.Client
) -> None:
    results = [new_cloud.job(one).result(SOON_S) for one in upgrade.across.jobs]
    assert {result.usage.completion_tokens for result in results} == {ACROSS}
    details = [new_cloud.fetch_job(one) for one in upgrade.across.jobs]
    assert {one.attempts for one in details} == {1}
    batch = new_cloud.batches.get(upgrade.across.batch).wait(SOON_S)
    assert len({line.custom_id for line in batch.results() if line.text}) == LINES


def test_a_stream_outlives_the_web_of_the_release_before(
    upgrade: Upgrade, new_cloud: genie.Client
) -> None:
    assert upgrade.across.stream is not None
    upgrade.across.stream.join(SOON_S)
    assert upgrade.across.streamed.split() == STREAMED.split() * REPEATED
    assert 0 < upgrade.across.cut < len(upgrade.across.streamed)


@pytest.mark.parametrize("kind", KINDS)
def test_both_workers_answer_every_kind_of_request_here(
    new_cloud: genie.Client, kind: str
) -> None:
    new_cloud_has_both(new_cloud)
    assert answered_by(lambda: KINDS[kind](new_cloud)) == BOTH


def new_cloud_has_both(client: genie.Client) -> None:
    """Both workers went on to beat, at the new web."""
    states = {worker.name: worker.state for worker in client.workers()}
    assert states == {ELDER: "online", NEWER: "online"}


def test_this_cloud_cancels_and_listens_to_work_on_the_worker_before(
    new_cloud: genie.Client,
) -> None:
    job = running_on(new_cloud, ELDER)
    pieces = job.stream()
    assert next(pieces)
    assert job.cancel().status.value == "cancelled"
    wait_until(lambda: slots_of(new_cloud, ELDER) == 0, SOON_S, "its slot is free")


def test_the_worker_before_goes_on_with_what_one_of_this_release_began(
    upgrade: Upgrade, new_cloud: genie.Client
) -> None:
    assert resumed(new_cloud, NEWER, lambda: upgrade.new.kill(NEWER)) == ELDER
    upgrade.new.start_worker(NEWER)
    upgrade.new.wait_ready("echo:small", workers=2, timeout_s=SOON_S)


def resumed(client: genie.Client, victim: str, kill: Callable[[], None]) -> str | None:
    """Who ended a sampled stream whose worker was killed; its text has no gap."""
    options: AskOptions = {"max_tokens": 400, "temperature": 0.7}
    streams = [client.stream(STREAMED, **options) for _ in range(PLACES)]
    begun = [(next(stream), stream) for stream in streams]
    text, mine = next(
        (text, stream)
        for text, stream in begun
        if worker_of(client, stream.job_id) == victim
    )
    for stream in streams:
        if stream is not mine:
            stream.close()
    kill()
    text += "".join(mine)
    assert text.split() == (STREAMED.split() * 67)[:400]
    return mine.result.worker


def worker_of(client: genie.Client, job_id: str | None) -> str | None:
    """The worker a job runs on."""
    assert job_id is not None
    wait_until(
        lambda: client.fetch_job(job_id).worker is not None, SOON_S, "the job runs"
    )
    return client.fetch_job(job_id).worker


def test_the_command_before_talks_to_this_cloud(
    upgrade: Upgrade, new_cloud: genie.Client
) -> None:
    environ = {"GENIE_URL": upgrade.new.url, "GENIE_API_KEY": upgrade.new.api_key}
    said = upgrade.old.command("genie", "ask", "hello there", **environ)
    assert said.split()[:2] == ["hello", "there"]
    for listing in ("jobs", "schedule", "batch"):
        assert upgrade.old.command("genie", listing, "list", **environ)
    for listing in ("workers", "queues", "personas"):
        assert upgrade.old.command("genie", listing, **environ)


# Only this release, on the rows of both.


def test_what_the_release_before_left_is_listed_and_read(
    upgrade: Upgrade, only_new: genie.Client
) -> None:
    found = list(only_new.jobs(limit=100))
    while page := only_new.jobs(limit=100, after=found[-1].id):
        found += page
    assert set(upgrade.across.jobs) <= {job.id for job in found}
    assert {job.details.worker for job in found} >= BOTH
    assert [schedule.runs() for schedule in schedules(only_new)]
    assert only_new.batches.list()
    states = {worker.name: worker.state for worker in only_new.workers()}
    assert states[NEWER] == "online"
    assert only_new.ask("still here", max_tokens=2).worker == NEWER


def test_a_worker_of_the_release_before_comes_back(
    upgrade: Upgrade, only_new: genie.Client
) -> None:
    upgrade.old.start_worker(ELDER)
    upgrade.new.wait_ready("echo:small", workers=2, timeout_s=SOON_S)
    assert answered_by(lambda: only_new.ask("one", max_tokens=TOKENS)) == BOTH
    ended_by = resumed(only_new, ELDER, lambda: upgrade.old.kill(ELDER))
    assert ended_by == NEWER


# The schema of the release after this one.


def test_this_release_starts_and_serves_on_a_later_schema(
    upgrade: Upgrade, later_schema: genie.Client
) -> None:
    assert upgrade.new.is_ready()
    assert later_schema.submit("later", max_tokens=2).result(SOON_S).text
    assert later_schema.workers()
    printed = upgrade.new.run("genie", "db", "upgrade")
    assert LATER in printed
    assert "later release" in upgrade.new.run("genie", "db", "check")
    upgrade.new.kill(NEWER, signal.SIGTERM)
    upgrade.new.start_worker(NEWER)
    upgrade.new.wait_ready("echo:small", timeout_s=SOON_S)
