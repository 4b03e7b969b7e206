"""Exchanges, queues, routing keys and task names: the only place that spells them."""

from genie.contracts.inference import WorkClass

SHARED = "genie"
"""The logical queue of shared work."""

OUTCOMES = "genie.outcomes"
"""Queue of started and outcome events. The release before publishes to it by this name,
on the default exchange."""

EVENTS = "genie.events"
"""Exchange of started and outcome events, by the name of their queue."""

REPLIES = "genie.replies"
"""Exchange of answers, by the name of the asker's queue."""

BRAIN = "genie.brain"
"""Celery queue of the cloud's own tasks."""

TASK_GATHER = "fleet.gather"
TASK_PLACE = "fleet.place"
TASK_RELAY = "jobs.relay"
TASK_SWEEP = "jobs.sweep"
TASK_BURY = "jobs.bury"
TASK_DRIVE = "batches.drive"
TASK_FIRE = "schedules.fire"
TASK_TELL = "webhooks.deliver"
TASK_TIDY = "files.tidy"
TASK_NUDGE = "worker.nudge"
TASK_CANCEL = "worker.cancel"
TASK_RESUME = "worker.resume"
TASK_SAY = "worker.say"
TASK_INFERENCE = "worker.infer"

MAX_MESSAGE_BYTES = 1_048_576
"""Largest task or outcome body that may be published, checked before publish."""

DELIVERY_LIMIT = 5
"""Deliveries of one quorum-queue message before the broker dead-letters it."""


def org_queue(slug: str) -> str:
    """Name of an org's dedicated logical queue (and exchange).

    >>> org_queue("acme")
    'org.acme'
    """
    return f"org.{slug}"


def routing_key(model: str, work_class: WorkClass) -> str:
    """Routing key of one model's work of one class.

    >>> routing_key("qwen3:14b", WorkClass.JOB)
    'qwen3:14b.job'
    """
    return f"{model}.{work_class.value}"


def model_queue(queue: str, model: str, work_class: WorkClass) -> str:
    """Broker queue behind a logical queue for one model and class.

    >>> model_queue("genie", "qwen3:14b", WorkClass.INTERACTIVE)
    'genie.qwen3:14b.interactive'
    """
    return f"{queue}.{routing_key(model, work_class)}"


def bidders(queue: str, model: str) -> str:
    """Broker queue whose consumers are the workers that ask for a model's interactive
    work, whether they could take some now or not. What comes there means: count again.

    >>> bidders("genie", "qwen3:14b")
    'genie.qwen3:14b.bidders'
    """
    return f"{queue}.{model}.bidders"


def dead_letters(queue: str) -> str:
    """Dead-letter exchange and queue of a logical queue.

    >>> dead_letters("genie")
    'genie.dead'
    """
    return f"{queue}.dead"


def control_queue(worker_id: str) -> str:
    """Queue on which one worker takes nudges and cancels."""
    return f"worker.{worker_id}"


def reply_queue(asker_id: str) -> str:
    """Exclusive queue on which one web process takes the answers it waits for.

    An asker of the release before has ``reply.…`` and reads one event in a message.
    """
    return f"replies.{asker_id}"


def takes_lists(reply_to: str) -> bool:
    """True when who asked reads a list of events in one message as well as one event.

    >>> takes_lists(reply_queue("7f")), takes_lists("reply.7f")
    (True, False)
    """
    return reply_to.startswith("replies.")
