"""One set of delivery rules for both ends: cloud and workers speak AMQP through this.

``link`` says what may be asked of a broker; ``amqp`` (over ``wire``) and ``memory`` do
it, in the one ``iothread`` of a process, and ``broker`` finds the right one. ``queues``
has every queue, ``envelope`` wraps a task as a Celery message, ``publisher`` sends
letters until they have arrived, ``tasks`` makes the Celery app.
"""
