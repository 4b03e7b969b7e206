"""gunicorn's settings: ``gunicorn -c python:cloud_app.gunicorn``.

Threads, because most requests wait for a worker's answer. The application is loaded
after the fork: a broker connection that crosses a fork hangs both sides.
"""

from cloud_app import store
from cloud_app.settings import CloudSettings
from genie import catalog, env, gc_tuning
from genie.errors import DatabaseDown, GenieError, SettingsError


def read() -> CloudSettings:
    """The settings, or an end of the process with every wrong variable named."""
    try:
        return env.read(CloudSettings)
    except SettingsError as error:
        raise SystemExit(f"genie: {error}") from None


def on_starting(_server: object) -> None:
    """Stop before any process is forked on a bad catalog or an old schema."""
    try:
        catalog.load(settings.catalog_path)
        _check_schema()
    except DatabaseDown:
        return  # requests get 503 until it is back
    except GenieError as error:
        raise SystemExit(f"genie: {error.message}") from None


def post_worker_init(_worker: object) -> None:
    """The application is loaded, and no request has come yet."""
    gc_tuning.freeze_loaded_objects()


def _check_schema() -> None:
    db = store.Database(settings.database_url)
    try:
        store.schema.check(db)
    finally:
        db.dispose()  # a connection must not cross the fork


settings = read()

wsgi_app = "cloud_app.app:create_app()"
worker_class = "cloud_app.server.Server"
workers = 1  # /metrics and the places for waiting requests are counted per process
threads = settings.web_threads
preload_app = False
control_socket_disable = True  # a socket nobody uses is a door nobody watches
graceful_timeout = 30  # seconds that running requests get after SIGTERM
keepalive = 75  # seconds; longer than the usual proxy's, so that it closes first
backlog = 512
limit_request_line = 8190  # bytes; GET /v1/jobs?ids= asks for 200 jobs at once
