"""gunicorn's settings: ``gunicorn -c python:cloud_app.gunicorn``.

Threads, because most requests wait for a worker's answer. The application is loaded
after the fork: a broker connection that crosses a fork hangs both sides.
"""

from cloud_app.settings import CloudSettings
from genie import env

settings = env.read(CloudSettings)

wsgi_app = "cloud_app.app:create_app()"
worker_class = "gthread"
workers = 1  # /metrics and the places for waiting requests are counted per process
threads = settings.web_threads
preload_app = False
control_socket_disable = True  # a socket nobody uses is a door nobody watches
graceful_timeout = 30  # seconds that running requests get after SIGTERM
keepalive = 75  # seconds; longer than the usual proxy's, so that it closes first
backlog = 512
