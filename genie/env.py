"""Reads settings from ``GENIE_*`` variables, once, into a frozen dataclass.

Only this module reads the environment. It names all wrong or missing variables
at once, so that nobody restarts a process five times to find five mistakes.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from genie.errors import SettingsError

S = TypeVar("S")

Parse = Callable[[str], Any]

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def text(value: str) -> str:
    """Any text that is not blank."""
    if not value.strip():
        raise ValueError("is empty")
    return value.strip()


def at_least_one(value: str) -> int:
    """A whole number of at least 1."""
    if not value.isdecimal():
        raise ValueError(f"is {value!r}, not a whole number")
    if not int(value):
        raise ValueError("is 0, not at least 1")
    return int(value)


def number(value: str) -> float:
    """A number above 0."""
    try:
        parsed = float(value)
    except ValueError as error:
        raise ValueError(f"is {value!r}, not a number") from error
    if not isfinite(parsed):
        raise ValueError(f"is {value}, not a finite number")
    if parsed <= 0:
        raise ValueError(f"is {value}, not above 0")
    return parsed


def flag(value: str) -> bool:
    """``1 true yes on`` or ``0 false no off``."""
    word = value.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"is {value!r}; use 1 or 0")


def path(value: str) -> Path:
    """A path, ``~`` expanded."""
    return Path(text(value)).expanduser()


def log_level(value: str) -> str:
    """``DEBUG INFO WARNING ERROR CRITICAL``, in any case."""
    level = text(value).upper()
    if level not in LOG_LEVELS:
        raise ValueError(f"is {value!r}, not one of {' '.join(LOG_LEVELS)}")
    return level


def words(value: str) -> tuple[str, ...]:
    """Comma-separated words."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


def url(*schemes: str) -> Parse:
    """A URL of one of ``schemes``."""

    def parse(value: str) -> str:
        scheme, found, rest = text(value).partition("://")
        allowed = " or ".join(f"{name}://" for name in schemes)
        if not found or scheme not in schemes:
            raise ValueError(f"must start with {allowed}")
        if not rest and scheme != "memory":
            raise ValueError("has no address after ://")
        if scheme in ("http", "https"):
            _check_address(value.strip())
        return value.strip()

    return parse


def _check_address(address: str) -> None:
    """Raise ValueError for an address that no HTTP client could use."""
    try:
        found = urlsplit(address)
        is_whole = bool(found.hostname) and found.port != 0
    except ValueError as error:
        raise ValueError(f"is {address!r}, no address ({error})") from error
    if not is_whole or any(letter.isspace() for letter in address):
        raise ValueError(f"is {address!r}, no address")


def variable(name: str, parse: Parse, help: str, **default: Any) -> Any:
    """A field read from variable ``name``; optional with ``default=``/``factory=``."""
    metadata = {"variable": name, "parse": parse, "help": help}
    if "factory" in default:
        return field(default_factory=default["factory"], metadata=metadata)
    return field(metadata=metadata, **default)


def read(settings: type[S], environ: Mapping[str, str] | None = None) -> S:
    """An instance of ``settings`` from the environment.

    Raises `SettingsError` listing every wrong or missing variable.
    """
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    problems: list[str] = []
    for item in fields(settings):  # type: ignore[arg-type]  # S is a dataclass by use
        _read_one(item, source, values, problems)
    if problems:
        listing = "\n  ".join(problems)
        raise SettingsError(f"invalid settings; fix these and restart:\n  {listing}")
    return settings(**values)


def _read_one(
    item: "Field[Any]",
    source: Mapping[str, str],
    values: dict[str, Any],
    problems: list[str],
) -> None:
    name, parse = item.metadata["variable"], item.metadata["parse"]
    raw = source.get(name)
    if raw is None:
        if item.default is MISSING and item.default_factory is MISSING:
            problems.append(f"{name} is missing: {item.metadata['help']}")
        return
    try:
        values[item.name] = parse(raw)
    except ValueError as error:
        problems.append(f"{name} {error}: {item.metadata['help']}")


def home() -> Path:
    """The folder of this user's models, databases and credentials."""
    given = os.environ.get("GENIE_HOME")
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(given or f"{base}/genie-fleet").expanduser()


def passed_sockets() -> int:
    """The number of listening sockets that the parent has passed to this process.

    ``LISTEN_FDS`` counts only in the process that ``LISTEN_PID`` names.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    count = os.environ.get("LISTEN_FDS", "")
    return int(count) if count.isdecimal() else 0


def notify_address() -> str | None:
    """The socket on which systemd waits until this process is ready."""
    return os.environ.get("NOTIFY_SOCKET") or None


def models(base: Path | None = None) -> Path:
    """The folder of pulled models: ``GENIE_MODELS_DIR``, or a folder of the home."""
    given = os.environ.get("GENIE_MODELS_DIR")
    return Path(given).expanduser() if given else (base or home()) / "models"


def visible_gpus() -> tuple[str, ...] | None:
    """The GPUs of ``CUDA_VISIBLE_DEVICES``: none if empty; None if not set: all."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if given is None else words(given)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """The settings of the SDK and the command line."""

    url: str | None = variable(
        "GENIE_URL", url("http", "https"), "the cloud's address", default=None
    )
    api_key: str | None = variable(
        "GENIE_API_KEY", text, "a key, sk-genie-…", default=None
    )
    timeout_s: float = variable(
        "GENIE_TIMEOUT_S", number, "seconds to wait for an answer", default=600.0
    )
    home: Path = variable(
        "GENIE_HOME", path, "folder of this user's genie files", factory=home
    )
    progress: bool = variable(
        "GENIE_PROGRESS",
        flag,
        "0: the SDK shows no bars for long work on a terminal",
        default=True,
    )
