"""Finds the cloud's address and a key: environment first, then `genie up`'s file."""

import os
from pathlib import Path

import msgspec

from genie import env
from genie.env import ClientSettings
from genie.errors import SettingsError

LOCAL = "local.json"
"""File in the user's genie folder that `genie up` writes, for its owner only."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """The address of one cloud and a key for it."""

    url: str
    api_key: str | None = None


def resolve(settings: ClientSettings) -> Credentials:
    """``GENIE_URL`` and ``GENIE_API_KEY``; each defaults to the file `genie up` wrote.

    A saved key is sent only to the address it was saved with. Raises
    `SettingsError` with the next step when there is no address, or none that
    could be dialled.
    """
    saved = load(settings.home)
    url = settings.url or (saved.url if saved else None)
    if url is None:
        raise SettingsError(
            "there is no cloud to talk to: GENIE_URL is not set and no local fleet was "
            "started here; run `genie up`, or set GENIE_URL and GENIE_API_KEY"
        )
    key = settings.api_key
    if key is None and saved and saved.url.rstrip("/") == url.rstrip("/"):
        key = saved.api_key
    _check(url, key)
    return Credentials(url=url.rstrip("/"), api_key=key)


def _check(url: str, key: str | None) -> None:
    try:
        env.url("http", "https")(url)
    except ValueError as error:
        raise SettingsError(
            f"the cloud's address {error}; it looks like https://genie.example.com"
        ) from error
    if key is not None and not key.isascii():
        raise SettingsError(
            "the API key has characters that no key has; copy it again, whole, to "
            "GENIE_API_KEY"
        )


def load(home: Path) -> Credentials | None:
    """What `genie up` saved in ``home``; None when it never ran there."""
    file = home / LOCAL
    try:
        return msgspec.json.decode(file.read_bytes(), type=Credentials)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(
            f"{file} cannot be read ({error}); delete it and run `genie up` again"
        ) from error


def save(home: Path, credentials: Credentials) -> Path:
    """Write ``credentials`` where `load` finds them, mode 0600; returns the file."""
    home.mkdir(parents=True, exist_ok=True)
    file = home / LOCAL
    write_private(file, msgspec.json.encode(credentials))
    return file


def write_private(file: Path, data: bytes) -> None:
    """Write a file for its owner alone, whole or not at all."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    # Created with its final mode: other users can never read what is secret in it.
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
