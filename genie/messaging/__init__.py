"""One set of delivery rules for both ends: cloud and workers speak AMQP through this.

``link`` says what may be asked of a broker. ``amqp`` does it with pika, over ``wire``
and ``frames``, in the ``iothread`` of a process; ``memory`` does it without a broker;
``broker`` chooses by the URL. ``queues`` has every queue, ``envelope`` wraps a task as
a Celery message, ``publisher`` sends letters until they have arrived, and ``tasks``
makes the Celery app.
"""
