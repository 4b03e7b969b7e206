"""Who this worker is, kept between starts in a file only its owner can read."""

import os
from pathlib import Path

from genie.contracts import codec
from genie.contracts.base import Contract
from genie.contracts.fleet import RegistrationReply
from genie.errors import CodecError, SettingsError

FILE = "worker.json"


class SavedRegistration(Contract, frozen=True, kw_only=True):
    """A registration and the cloud it is of."""

    url: str
    registered: RegistrationReply


def load(folder: Path, url: str) -> RegistrationReply | None:
    """The saved registration with the cloud at ``url``; None when there is none.

    Raises SettingsError when the file cannot be read or understood.
    """
    path = folder / FILE
    try:
        saved = codec.decode(SavedRegistration, path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, CodecError) as error:
        raise SettingsError(
            f"{path} cannot be used ({error}); delete it and join again with a "
            "fresh GENIE_JOIN_TOKEN"
        ) from error
    return saved.registered if saved.url == url.rstrip("/") else None


def save(folder: Path, url: str, registered: RegistrationReply) -> None:
    """Keep a registration, mode 0600, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = folder / f".{FILE}.{os.getpid()}"
    data = codec.encode(SavedRegistration(url=url.rstrip("/"), registered=registered))
    # Created 0600: the secret is never readable to others, not even for a moment.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / FILE)
