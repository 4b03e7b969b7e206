"""A Flask view that waits for a Celery task, as people write it.

gunicorn -w 1 --threads 64 flask_celery:web
celery -A flask_celery worker
"""

import os
from typing import Any

import celery
import flask

app = celery.Celery("echo", broker=os.environ["PEER_BROKER_URL"], backend="rpc://")
web = flask.Flask("echo")


@app.task  # type: ignore[untyped-decorator]  # celery has no types
def echo(text: str) -> str:
    """What was said."""
    return text


@web.post("/echo")
def ask() -> dict[str, Any]:
    """The task's result."""
    text = flask.request.get_json()["text"]
    return {"text": echo.delay(text).get(timeout=60)}
