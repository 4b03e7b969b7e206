"""What happened to a job, in order, read once or followed."""

import pytest
from msgspec.structs import replace

from cloud_app.jobs import lifecycle, timeline
from cloud_app.jobs.timeline import TimelineEntry
from fixtures.clouds import Cloud, outcome, started
from genie.contracts.inference import JobState
from genie.errors import DatabaseDown, UnknownJob


def names(entries: tuple[TimelineEntry, ...]) -> list[str]:
    return [entry.id for entry in entries]


def test_a_completed_job_tells_its_whole_story(cloud: Cloud) -> None:
    job = cloud.job()
    lifecycle.mark_confirmed(cloud.ctx, job.id)
    cloud.clock.forward(3)
    cloud.start(job, "a1")
    cloud.clock.forward(5)
    cloud.finish(job)
    _, entries = timeline.read(cloud.ctx, "acme", job.id)
    assert names(entries) == [
        *("accepted", "routed", "queued", "started-1", "first_token", "completed"),
    ]
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)
    assert entries[1].facts["reasons"] == ["smallest"]
    assert entries[3].facts == {"attempt": 1, "worker": "host of w1"}
    assert entries[-1].facts["attempts"] == 1


def test_every_attempt_of_a_job_is_told(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.start(job, "a1", "w1")
    cloud.clock.forward(9)
    again = replace(started(job.id, "a2", "w2"), redelivered=True)
    lifecycle.apply(cloud.ctx, again)
    _, entries = timeline.read(cloud.ctx, "acme", f"chatcmpl-{job.id}")
    begun = [entry for entry in entries if entry.name == "started"]
    assert [entry.facts["worker"] for entry in begun] == ["host of w1", "host of w2"]


def test_a_failed_job_says_why(cloud: Cloud) -> None:
    job = cloud.job()
    lifecycle.apply(cloud.ctx, outcome(job.id, state=JobState.FAILED))
    _, entries = timeline.read(cloud.ctx, "acme", job.id)
    assert entries[-1].id == "failed"


def test_a_follower_hears_what_happens_until_the_end(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = cloud.job()
    steps = [lambda: cloud.start(job, "a1"), lambda: cloud.finish(job)]
    monkeypatch.setattr("time.sleep", lambda _seconds: steps.pop(0)())
    heard = [one and one.id for one in timeline.follow(cloud.ctx, "acme", job.id)]
    assert heard == [
        *("accepted", "routed", None, "queued", "started-1", None),
        *("first_token", "completed"),
    ]


@pytest.mark.parametrize(
    ("last", "heard"),
    [
        ("started-1", ["first_token", "completed"]),
        ("completed", []),
        ("nonsense", 6),
        (None, 6),
    ],
)
def test_a_follower_goes_on_after_the_last_it_heard(
    cloud: Cloud, last: str | None, heard: list[str] | int
) -> None:
    job = cloud.job()
    cloud.start(job, "a1")
    cloud.finish(job)
    found = [one and one.id for one in timeline.follow(cloud.ctx, "acme", job.id, last)]
    assert (found if isinstance(heard, list) else len(found)) == heard


def test_a_database_that_is_away_is_waited_for(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = cloud.job()
    following = timeline.follow(cloud.ctx, "acme", job.id)
    assert [one and one.id for one in (next(following), next(following))] == [
        *("accepted", "routed"),
    ]
    assert next(following) is None
    cloud.finish(job)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with monkeypatch.context() as away:

        def down(*_args: object) -> None:
            raise DatabaseDown("away")

        away.setattr("cloud_app.jobs.timeline.read", down)
        assert next(following) is None
    rest = [one.id for one in following if one is not None]
    assert rest[-1] == "completed"


def test_an_unknown_job_is_said_at_once(cloud: Cloud) -> None:
    with pytest.raises(UnknownJob):
        timeline.follow(cloud.ctx, "acme", "0" * 26)
