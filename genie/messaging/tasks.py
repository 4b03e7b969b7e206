"""The Celery app of either end: one set of delivery rules, each with its reason."""

import celery
import kombu

from genie.messaging import broker
from genie.messaging.queues import QueueSpec

POLLING_INTERVAL_S = 0.005
"""In-memory transport only; its default is a second."""


def make_celery(
    name: str, *queues: QueueSpec, broker_url: str | None = None
) -> celery.Celery:
    """A Celery app that loses no task, logs no argument and opens no back door."""
    app = celery.Celery(name, set_as_current=False, fixups=[])
    app.conf.update(
        # JSON only: a pickled message is code execution.
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        enable_utc=True,
        timezone="UTC",
        # Work in hand is redone when its process dies, and only then.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # A misspelt queue is an error, not a new queue.
        task_create_missing_queues=False,
        # No second process could inspect or stop a worker with one credential.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_detect_quorum_queues=False,  # else 28 queues of delayed delivery
        # A broker that is away is waited for, however long.
        broker_heartbeat=broker.HEARTBEAT_S,
        broker_connection_timeout=broker.CONNECT_TIMEOUT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        # Threads: fork breaks CUDA and hangs children of a process that used AMQP.
        worker_pool="threads",
        worker_concurrency=4,
        worker_hijack_root_logger=False,
    )
    if broker_url is not None:
        app.conf.update(broker_settings(broker_url))
    if queues:
        use_queues(app, *queues)
    return app


def broker_settings(url: str) -> dict[str, object]:
    """Celery's settings for a broker: its address and what the way there needs."""
    if broker.is_memory(url):
        polling = {"polling_interval": POLLING_INTERVAL_S}
        return {"broker_url": url, "broker_transport_options": polling}
    return {
        "broker_url": url,
        "broker_transport_options": {"confirm_publish": True},
        "broker_use_ssl": broker.tls(url),
    }


def use_queues(app: celery.Celery, *queues: QueueSpec) -> None:
    """The queues ``app`` consumes; the first one takes tasks that name none."""
    app.conf.task_queues = [
        kombu.Queue(
            one.name,
            exchange=kombu.Exchange(""),
            routing_key=one.name,
            durable=one.durable,
            queue_arguments=dict(one.arguments),
        )
        for one in queues
    ]
    app.conf.task_default_queue = queues[0].name
