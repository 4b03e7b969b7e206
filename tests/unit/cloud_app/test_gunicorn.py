import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
from gunicorn.config import Config

from cloud_app import store
from fixtures.fleet import procfile_environ
from genie import gc_tuning


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The environment of a web process, and its empty database."""
    url = f"sqlite:///{tmp_path / 'genie.db'}"
    monkeypatch.setenv("GENIE_DATABASE_URL", url)
    monkeypatch.setenv("GENIE_BROKER_URL", "memory://")
    monkeypatch.setenv("GENIE_SECRET_KEY", "a secret of tests alone")
    monkeypatch.setenv("GENIE_WEB_THREADS", "99")
    return url


def loaded() -> types.ModuleType:
    """The settings as gunicorn loads them: anew, from the environment."""
    sys.modules.pop("cloud_app.gunicorn", None)
    return importlib.import_module("cloud_app.gunicorn")


def test_gunicorn_takes_every_setting_and_serves_as_many_threads_as_we_say(
    database: str,
) -> None:
    config = Config()
    for name, value in vars(loaded()).items():
        if name in config.settings:
            config.set(name, value)

    assert config.worker_class_str == "cloud_app.server.Server"
    assert config.threads == 99
    assert config.workers == 1
    assert config.control_socket_disable
    assert not config.preload_app


def test_an_old_schema_stops_the_boot_before_any_fork(database: str) -> None:
    ours = loaded()
    with pytest.raises(SystemExit, match="genie db upgrade"):
        ours.on_starting(None)

    db = store.Database(database)
    store.schema.upgrade(db)
    db.dispose()

    ours.on_starting(None)


def test_a_typo_in_the_catalog_stops_the_boot_before_any_fork(
    database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = tmp_path / "catalog.toml"
    wrong.write_text('[[models]]\nid = "a"\nfamliy = "b"\n')
    monkeypatch.setenv("GENIE_CATALOG", str(wrong))
    with pytest.raises(SystemExit, match=r"catalog.toml:3: .*famliy"):
        loaded().on_starting(None)


def test_wrong_settings_end_the_process_with_all_their_names(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIE_WEB_THREADS", "many")
    monkeypatch.delenv("GENIE_SECRET_KEY")

    with pytest.raises(SystemExit) as ended:
        loaded()

    assert "GENIE_WEB_THREADS" in str(ended.value)
    assert "GENIE_SECRET_KEY" in str(ended.value)


def test_a_web_process_settles_once_its_application_is_loaded(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[bool] = []
    monkeypatch.setattr(
        gc_tuning, "freeze_loaded_objects", lambda: settled.append(True)
    )
    config = Config()
    config.set("post_worker_init", loaded().post_worker_init)
    config.post_worker_init(None)
    assert settled == [True]


FREED_ELSEWHERE = """
import ctypes, threading
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
class Info(ctypes.Structure):
    _fields_ = [(f"f{n}", ctypes.c_int) for n in range(10)]
libc.mallinfo.restype = Info
def used():
    return libc.mallinfo().f7
before = used()
sizes = [16 * n + 8 for n in range(1, 64)] * 7
made = [[libc.malloc(size) for size in sizes] for _ in range(32)]
freed, end = threading.Barrier(33), threading.Event()
def work(mine):
    for one in mine:
        libc.free(one)
    freed.wait()
    end.wait()
for mine in made:
    threading.Thread(target=work, args=(mine,)).start()
freed.wait()
print(used() - before)
end.set()
"""
"""What counts as used of what 32 threads freed that live on, in bytes."""


def kept(environ: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FREED_ELSEWHERE],
        env=environ,
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return int(done.stdout)


def test_the_procfile_s_web_keeps_nothing_for_a_thread_that_freed_it() -> None:
    assert kept(procfile_environ("web")) < 2**20
    assert kept({}) > 4 * 2**20
