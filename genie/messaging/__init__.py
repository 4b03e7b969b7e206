"""One set of delivery rules for both ends: cloud and workers speak AMQP through this.

``broker`` opens connections and names queues, ``envelope`` wraps a task as a Celery
message, ``pump`` consumes on a thread of its own, ``publisher`` publishes on one,
``tasks`` makes the Celery app.
"""
