"""The parts of a worker together, in memory: no broker, no HTTP, no weights."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import celery
import msgspec
import pytest

from fixtures.engines import EchoEngine
from genie.contracts.fleet import (
    DesiredModel,
    Directive,
    DirectiveKind,
    Heartbeat,
    HeartbeatReply,
    ModelState,
    Registration,
    RegistrationReply,
)
from genie.contracts.model import ModelSpec, Quant
from genie.messaging.tasks import make_celery
from workers import agent, tasks
from workers.cloud import CloudClient
from workers.engine.parent.starter import EngineStarter
from workers.engine.protocol import EngineHooks, Load, LoadedEngine
from workers.files.files import LocalModel
from workers.host import HostParts, WorkerHost
from workers.settings import WorkerSettings

BOUND_S = 60.0
SPEC = ModelSpec(
    id="echo:small",
    family="echo",
    parameters=1,
    license="Apache-2.0",
    source="echo:",
    context_max=1024,
    layers=1,
    kv_heads=1,
    head_dim=1,
    quants=(Quant(name="none", dtype="float32", weight_bytes=1),),
    engine="echo",
)
WANTED = DesiredModel(spec=SPEC, quant="none", slots=2, context=512, reason="test")
DRAIN = Directive(id="d1", kind=DirectiveKind.DRAIN)
RESUME = Directive(id="d2", kind=DirectiveKind.RESUME)


class CloudTwin(CloudClient):
    """Answers every beat with the desired set and the open directives."""

    def __init__(self, registered: RegistrationReply) -> None:
        super().__init__("http://twin")
        self.registered = registered
        self.desired: tuple[DesiredModel, ...] = (WANTED,)
        self.directives: tuple[Directive, ...] = ()
        self.forgets = False
        self.beats: list[Heartbeat] = []
        self._news = threading.Condition()

    def register(self, registration: Registration, token: str) -> RegistrationReply:
        return self.registered

    def heartbeat(self, beat: Heartbeat, secret: str) -> HeartbeatReply:
        forgets, self.forgets = self.forgets, False
        with self._news:
            self.beats.append(beat)
            self._news.notify_all()
        return HeartbeatReply(
            ack_seq=beat.seq,
            server_time=datetime.now(UTC),
            next_in_s=60,
            desired=self.desired,
            directives=self.directives,
            register=forgets,
        )

    def wait(self, wanted: Callable[[Heartbeat], bool]) -> Heartbeat:
        with self._news:
            assert self._news.wait_for(lambda: any(map(wanted, self.beats)), BOUND_S), (
                self.beats[-1:]
            )
            return next(filter(wanted, self.beats))


class TwinStarter(EngineStarter):
    """Starts echo engines in this process."""

    def __call__(self, load: Load, hooks: EngineHooks) -> LoadedEngine:
        del hooks
        engine = EchoEngine(slots=load.slots)
        return LoadedEngine(engine=engine, fingerprint="gf1-echo", peak_bytes=0)


@pytest.fixture
def cloud() -> CloudTwin:
    return CloudTwin(
        RegistrationReply(
            worker_id="w1",
            worker_secret="gw-1",
            name="ann",
            org="acme",
            broker_url="memory://",
            queues=("genie",),
        )
    )


@pytest.fixture
def moved() -> list[str]:
    return []


@pytest.fixture
def host(
    cloud: CloudTwin, tmp_path: Path, moved: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkerHost]:
    monkeypatch.setattr(agent, "DEBOUNCE_S", 0.05)
    host = WorkerHost(
        WorkerSettings(url="http://twin", home=tmp_path, name="ann", join_token="gj-1"),
        cloud.registered,
        parts=HostParts(
            cloud=cloud,
            fetch=lambda _spec, _progress: LocalModel(path=None, files=()),
            starter=TwinStarter(),
        ),
        on_moved=lambda: moved.append("moved"),
    )
    host.start()
    yield host
    host.stop(1.0)


def is_ready(beat: Heartbeat) -> bool:
    return any(model.state is ModelState.READY for model in beat.models)


def test_a_worker_joins_empty_and_reports_what_it_loaded_within_seconds(
    host: WorkerHost, cloud: CloudTwin
) -> None:
    ready = cloud.wait(is_ready)
    assert cloud.beats[0].models == ()
    assert (ready.models[0].model, ready.models[0].slots) == ("echo:small", 2)
    assert [beat.seq for beat in cloud.beats] == list(range(1, len(cloud.beats) + 1))


def test_a_drain_directive_closes_the_worker_and_a_resume_opens_it(
    host: WorkerHost, cloud: CloudTwin
) -> None:
    cloud.wait(is_ready)
    cloud.directives = (DRAIN,)
    host.agent.nudge()
    host.agent.nudge()
    cloud.wait(lambda beat: not beat.directives)
    nudge_until(host, cloud, lambda beat: said(beat) == [("d1", "done")])
    assert cloud.beats[-1].draining
    cloud.directives = (RESUME,)
    nudge_until(host, cloud, lambda beat: said(beat) == [("d2", "done")])
    assert not cloud.beats[-1].draining


def test_a_stop_says_goodbye_and_can_be_asked_for_twice(
    host: WorkerHost, cloud: CloudTwin
) -> None:
    cloud.wait(is_ready)
    host.close()
    cloud.wait(lambda beat: beat.draining)
    host.stop(1.0)
    host.stop(1.0)
    assert host.residency.ready() == {}


def test_a_worker_registered_anew_at_the_same_place_just_goes_on(
    host: WorkerHost, cloud: CloudTwin, moved: list[str]
) -> None:
    cloud.forgets = True
    host.agent.nudge()
    cloud.wait(lambda beat: beat.seq > 2)
    assert moved == []


def test_a_worker_with_a_new_identity_asks_to_be_started_again(
    host: WorkerHost, cloud: CloudTwin, moved: list[str]
) -> None:
    cloud.wait(is_ready)
    cloud.registered = msgspec.structs.replace(cloud.registered, worker_id="w2")
    cloud.forgets = True
    seen = len(cloud.beats)
    host.agent.nudge()
    cloud.wait(lambda beat: beat.seq > seen + 1)
    assert moved == ["moved"]


def test_control_tasks_reach_the_running_worker_and_no_other(
    host: WorkerHost, cloud: CloudTwin
) -> None:
    app: celery.Celery = make_celery("test")
    running: list[WorkerHost] = []
    tasks.register(app, lambda: running[0] if running else None)
    app.tasks["worker.nudge"]()
    app.tasks["worker.cancel"](job_id="j")
    cloud.wait(is_ready)
    running.append(host)
    seen = len(cloud.beats)
    app.tasks["worker.cancel"](job_id="j")
    app.tasks["worker.nudge"]()
    cloud.wait(lambda beat: beat.seq > seen)


def said(beat: Heartbeat) -> list[tuple[str, str]]:
    return [(status.id, status.state) for status in beat.directives]


def nudge_until(
    host: WorkerHost, cloud: CloudTwin, wanted: Callable[[Heartbeat], bool]
) -> None:
    """Nudge, a beat at a time, until the worker's last word is as wanted."""
    for _ in range(5):
        seen = len(cloud.beats)
        host.agent.nudge()
        cloud.wait(lambda beat: beat.seq > seen)  # noqa: B023  # used at once
        if wanted(cloud.beats[-1]):
            return
    raise AssertionError(cloud.beats[-1])
