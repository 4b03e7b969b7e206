"""A worker as one object: the parts, how they hear of each other, and their order.

The Celery bootstep runs one in production, the embedded fleet runs one directly.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from genie import env, logs
from genie.contracts.base import PROTOCOL
from genie.contracts.fleet import (
    Directive,
    GpuStatus,
    Heartbeat,
    HeartbeatReply,
    HostStatus,
    RegistrationReply,
)
from genie.contracts.inference import InferenceTask
from genie.messaging.publisher import Publisher
from workers import directives, hardware, join
from workers.agent import Agent
from workers.bidding.consumers import DataPlane
from workers.cloud import CloudClient
from workers.engine.parent.starter import EngineStarter
from workers.files.files import ModelStore
from workers.models.residency import FetchModel, MachineAccess, Residency
from workers.serving.attempt import WorkerIdentity
from workers.serving.reports import EventReporter
from workers.serving.serving import Serving
from workers.settings import WorkerSettings

log = logs.logger("host")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostParts:
    """The parts of a host besides its settings; tests bring twins."""

    cloud: CloudClient
    fetch: FetchModel
    starter: EngineStarter


def real_parts(settings: WorkerSettings) -> HostParts:
    """The cloud over HTTP, model files on disk, an engine in a child process."""
    return HostParts(
        cloud=CloudClient(settings.url),
        fetch=ModelStore(settings.models_folder).ensure,
        starter=EngineStarter(keeps=settings.warm_spare),
    )


class WorkerHost:
    """One worker: agent, residency, serving and data plane, composed.

    ``on_moved`` is called when the cloud gave this worker another identity or broker:
    the process that consumes its control queue must then be started again.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        registered: RegistrationReply,
        *,
        boot_id: str | None = None,
        parts: HostParts | None = None,
        on_moved: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.registered = settings, registered
        self._boot_id = boot_id or join.new_boot_id()
        self._on_moved = on_moved
        parts = parts or real_parts(settings)
        self._cloud, self._gpus = parts.cloud, hardware.GpuReader(env.visible_gpus())
        self._starter = parts.starter
        self._directives: tuple[Directive, ...] = ()
        self._is_draining = self._is_stopping = False
        self._stop_once = threading.Lock()
        self._post = Publisher(
            registered.broker_url,
            name=f"worker-{registered.name}.post",
        )
        self._mail = EventReporter(self._post)
        self.residency = self._make_residency(parts.fetch)
        self.agent = Agent(
            parts.cloud,
            registered,
            report=self._report,
            obey=self._obey,
            enrol=self._enrol,
        )
        self.serving = self._make_serving()
        self.dataplane = DataPlane(
            registered.broker_url,
            name=f"worker-{registered.name}",
            queues=registered.queues,
            serving=self.serving,
        )

    def start(self) -> None:
        """Start every part; returns at once. Models come with the first heartbeat."""
        self._post.start()
        self.dataplane.start()
        self.residency.start()
        self.agent.start()
        log.info("worker_started", worker=self.registered.worker_id)

    def stop(self, drain_s: float | None = None) -> None:
        """Take nothing new, let what runs finish, then stop the engines.

        What still runs after ``drain_s`` (default: the settings') goes back to the
        broker. Safe to call twice; the second call waits for the first.
        """
        with self._stop_once:
            if self._is_stopping:
                return
            self.close()
            self._is_stopping = True
            limit_s = self.settings.drain_s if drain_s is None else drain_s
            if not self.serving.wait_idle(None, limit_s):
                self.serving.abandon()
            self.agent.stop()
            self.residency.stop()
            self._starter.close()
            # Before the data plane: acks of confirmed outcomes go through it.
            self._post.stop()
            self.dataplane.stop()
            log.info("worker_stopped", worker=self.registered.worker_id)

    def close(self) -> None:
        """Take nothing new from now on, and tell the cloud; returns at once."""
        self._is_draining = True
        self.dataplane.close_credits()
        self.agent.nudge()

    def _make_residency(self, fetch: FetchModel) -> Residency:
        machine = MachineAccess(
            fetch=fetch,
            start=self._starter,
            read=self._read,
            spared=self._starter.held_bytes,
            give_back=self._starter.give_back,
            # All that an engine says in one step leaves for the broker in one write.
            gather=self._mail.gathered,
        )
        return Residency(
            machine,
            self.settings,
            on_change=self._changed,
            wait_idle=self._wait_idle,
        )

    def _make_serving(self) -> Serving:
        me = WorkerIdentity(
            worker_id=self.registered.worker_id, name=self.registered.name
        )
        return Serving(
            me,
            self._mail,
            ready=self.residency.ready,
            on_slot=self._slot_freed,
            on_served=self.residency.served,
            now=self.agent.now,
        )

    def _read(self) -> tuple[HostStatus, tuple[GpuStatus, ...]]:
        host = hardware.host_status(self.settings.models_folder)
        return host, self._gpus.read(hardware.own_pids())

    def _report(self, seq: int) -> Heartbeat:
        host, gpus = self._read()
        models = self.residency.statuses()
        return Heartbeat(
            seq=seq,
            boot_id=self._boot_id,
            host=host,
            gpus=gpus,
            models=models,
            directives=directives.progress(
                self._directives, models, is_draining=self._is_draining
            ),
            draining=self._is_draining,
            protocol=PROTOCOL,
        )

    def _obey(self, reply: HeartbeatReply) -> None:
        self._directives = reply.directives
        self.residency.desire(reply.desired)
        if not self._is_stopping:
            self._drain(
                directives.wants_drain(reply.directives, is_draining=self._is_draining)
            )

    def _drain(self, wanted: bool) -> None:
        if wanted == self._is_draining:
            return
        self._is_draining = wanted
        log.info("draining" if wanted else "resumed")
        if wanted:
            self.dataplane.close_credits()
        else:
            self.dataplane.resume()

    def _wait_idle(self, model: str, timeout_s: float) -> bool:
        return self.serving.wait_idle(model, timeout_s)

    def _slot_freed(self, like: InferenceTask) -> None:
        self.dataplane.slot_freed(like.model, like.work_class)

    def _changed(self) -> None:
        self.dataplane.wake()
        self.agent.changed()

    def _enrol(self) -> RegistrationReply:
        fresh = join.enrol(self.settings, self._cloud, self._boot_id)
        old, self.registered = self.registered, fresh
        # What a running data plane depends on.
        if (old.worker_id, old.broker_url, old.queues) != (
            fresh.worker_id,
            fresh.broker_url,
            fresh.queues,
        ):
            log.warning("moved", worker=fresh.worker_id, was=old.worker_id)
            self._on_moved()
        return fresh
