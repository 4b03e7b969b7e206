import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from genie import env
from genie.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Settings:
    url: str = env.variable("T_URL", env.url("http", "https"), "the address")
    port: int = env.variable("T_PORT", env.at_least_one, "a port", default=80)
    wait_s: float = env.variable("T_WAIT_S", env.number, "seconds", default=1.5)
    names: tuple[str, ...] = env.variable("T_NAMES", env.words, "names", default=())
    home: Path = env.variable(
        "T_HOME", env.path, "a folder", factory=lambda: Path("/x")
    )


def test_defaults_fill_what_is_not_set() -> None:
    found = env.read(Settings, {"T_URL": "http://a"})
    expected = Settings(url="http://a", port=80, wait_s=1.5, names=(), home=Path("/x"))
    assert found == expected


def test_every_variable_is_read() -> None:
    environ = {
        "T_URL": "https://b/",
        "T_PORT": "8080",
        "T_WAIT_S": "0.5",
        "T_NAMES": "a, b,,",
        "T_HOME": "~/genie",
        "OTHER": "ignored",
    }
    found = env.read(Settings, environ)
    assert (found.url, found.port, found.wait_s) == ("https://b/", 8080, 0.5)
    assert found.names == ("a", "b")
    assert found.home == Path.home() / "genie"


def test_all_wrong_and_missing_variables_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        env.read(Settings, {"T_PORT": "http", "T_WAIT_S": "-1", "T_HOME": " "})
    said = str(caught.value)
    for part in (
        "T_URL is missing: the address",
        "T_PORT is 'http', not a whole number: a port",
        "T_WAIT_S is -1, not above 0: seconds",
        "T_HOME is empty: a folder",
    ):
        assert part in said
    assert "T_NAMES" not in said


def test_the_processes_own_environment_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("T_URL", "http://from-the-environment")
    assert env.read(Settings).url == "http://from-the-environment"


@pytest.mark.parametrize(
    ("parse", "value", "parsed"),
    [
        (env.text, " a ", "a"),
        (env.at_least_one, "1", 1),
        (env.log_level, "warning", "WARNING"),
        (env.number, "1e3", 1000.0),
        (env.flag, "Yes", True),
        (env.flag, "1", True),
        (env.flag, "off", False),
        (env.words, "", ()),
        (env.url("memory"), "memory://", "memory://"),
        (env.url("amqp", "amqps"), "amqps://u:p@h/v", "amqps://u:p@h/v"),
    ],
)
def test_a_parser_reads_what_people_write(
    parse: Callable[[str], object], value: str, parsed: object
) -> None:
    assert parse(value) == parsed


def test_models_lie_in_the_home_unless_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GENIE_MODELS_DIR", raising=False)
    assert env.models(tmp_path) == tmp_path / "models"
    monkeypatch.setenv("GENIE_MODELS_DIR", "/big/disk")
    assert env.models(tmp_path) == Path("/big/disk")


@pytest.mark.parametrize(
    ("parse", "value", "why"),
    [
        (env.text, "", "is empty"),
        (env.at_least_one, "-1", "not a whole number"),
        (env.at_least_one, "1.5", "not a whole number"),
        (env.at_least_one, "²", "not a whole number"),
        (env.at_least_one, "0", "not at least 1"),
        (env.log_level, "loud", "not one of DEBUG INFO WARNING ERROR CRITICAL"),
        (env.number, "ten", "not a number"),
        (env.number, "0", "not above 0"),
        (env.number, "nan", "not a finite number"),
        (env.number, "inf", "not a finite number"),
        (env.flag, "maybe", "use 1 or 0"),
        (env.url("http"), "ftp://a", "must start with http://"),
        (env.url("http"), "example.org", "must start with http://"),
        (env.url("http"), "http://", "has no address"),
    ],
)
def test_a_parser_says_what_is_wrong(
    parse: Callable[[str], object], value: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        parse(value)


def test_sockets_are_taken_only_by_the_process_they_were_passed_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    assert env.passed_sockets() == 0
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert env.passed_sockets() == 0
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert env.passed_sockets() == 2


def test_a_count_of_sockets_that_is_no_number_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "many")
    assert env.passed_sockets() == 0


def test_nobody_is_told_where_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert env.notify_address() is None
