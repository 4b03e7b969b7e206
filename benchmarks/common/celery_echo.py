"""Celery as it comes: one solo worker, results over its own reply queue."""

import os

import celery

ADDRESS = "BENCH_BROKER_URL"
WORKER = (
    *("celery", "-A", "benchmarks.common.celery_echo", "worker", "-P", "solo"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"),
)


def make(url: str) -> celery.Celery:
    """An app with one task, ``echo``."""
    made = celery.Celery("echo", broker=url, backend="rpc://")
    made.conf.update(worker_enable_remote_control=False, result_expires=60)
    made.task(echo, name="echo")
    return made


def echo(text: str) -> str:
    """What was said."""
    return text


app = make(os.environ.get(ADDRESS, "memory://"))
