"""Registers this machine with a cloud: a join token or an old secret buys an identity.

The identity is kept between starts in a file that only its owner can read.
"""

import os
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from genie import env, logs
from genie.contracts import codec
from genie.contracts.base import PROTOCOL, Contract
from genie.contracts.fleet import Registration, RegistrationReply
from genie.errors import (
    BadRequest,
    CloudUnreachable,
    CodecError,
    SettingsError,
    Unauthorized,
)
from genie.sdk.credentials import write_private
from workers import hardware
from workers.cloud import CloudClient
from workers.engine import registry
from workers.settings import WorkerSettings, worker_name

log = logs.logger("join")

IDENTITY_FILE = "worker.json"

HOW_TO_JOIN = (
    "ask an admin for a join token (`genie worker token`), then run "
    "`genie worker join URL --token gj-…`"
)


class SavedRegistration(Contract, frozen=True, kw_only=True):
    """A registration and the cloud it is of."""

    url: str
    registered: RegistrationReply


def saved_registration(folder: Path, url: str) -> RegistrationReply | None:
    """The saved registration with the cloud at ``url``; None when there is none.

    Raises SettingsError when the file cannot be read or understood.
    """
    path = folder / IDENTITY_FILE
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


def save_registration(folder: Path, url: str, registered: RegistrationReply) -> None:
    """Keep a registration, mode 0600, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    saved = SavedRegistration(url=url.rstrip("/"), registered=registered)
    write_private(folder / IDENTITY_FILE, codec.encode(saved))


def new_boot_id() -> str:
    """Names one life of a worker process; heartbeat numbers count within it."""
    return uuid.uuid4().hex


def release() -> str:
    """The installed version of genie-fleet."""
    try:
        return version("genie-fleet")
    except PackageNotFoundError:  # run from a source tree
        return "0+source"


def describe(settings: WorkerSettings, boot_id: str) -> Registration:
    """This worker's registration: its machine and its engines as they are now."""
    engines = registry.facts()
    return Registration(
        hostname=os.uname().nodename,
        name=settings.name,
        boot_id=boot_id,
        version=release(),
        host=hardware.host_status(settings.models_folder),
        gpus=hardware.GpuReader(env.visible_gpus()).read(hardware.own_pids()),
        engines=tuple(engine.name for engine in engines),
        engine_facts=engines,
        protocol=PROTOCOL,
    )


def enrol(
    settings: WorkerSettings, cloud: CloudClient, boot_id: str
) -> RegistrationReply:
    """Register now, with the saved secret first and the join token second.

    Raises CloudUnreachable when the cloud is away, and Unauthorized, whose message
    says how to join, when no credential of this worker is accepted. The new
    registration is saved before it is returned.
    """
    registration = describe(settings, boot_id)
    saved = saved_registration(settings.state_folder, settings.url)
    secret = saved.worker_secret if saved else None
    refused: Unauthorized | None = None
    for credential in (secret, settings.join_token):
        if credential is None:
            continue
        try:
            registered = _register(cloud, registration, credential)
        except Unauthorized as error:
            refused = error
            continue
        save_registration(settings.state_folder, settings.url, registered)
        log.info("registered", worker=registered.worker_id, name=registered.name)
        return registered
    reason = refused.message if refused else "this worker has no credentials yet"
    raise Unauthorized(f"{reason}; {HOW_TO_JOIN}")


def _register(
    cloud: CloudClient, registration: Registration, credential: str
) -> RegistrationReply:
    """Register; a cloud of the release before is only told the engines' names."""
    try:
        return cloud.register(registration, credential)
    except BadRequest as error:
        if "engine_facts" not in error.message:
            raise
        log.info("engines_only_named", reason=error.message)
    plain = msgspec.structs.replace(registration, engine_facts=())
    return cloud.register(plain, credential)


def resume(
    settings: WorkerSettings, cloud: CloudClient, boot_id: str
) -> RegistrationReply:
    """Register, or go on with the saved registration while the cloud is away.

    Raises as `enrol` does, and CloudUnreachable only when there is nothing saved.
    """
    try:
        return enrol(settings, cloud, boot_id)
    except CloudUnreachable as error:
        saved = saved_registration(settings.state_folder, settings.url)
        if saved is None:
            raise
        log.warning("cloud_away", reason=error.message, worker=saved.worker_id)
        return saved


def join(
    url: str, token: str, home: Path | None = None, name: str | None = None
) -> RegistrationReply:
    """Join the fleet of the cloud at ``url`` with a single-use ``token``.

    Credentials are saved under ``home`` (default: the user's data folder), so that
    `celery -A workers worker` needs no token. Raises Unauthorized when the token is
    used, expired or wrong, CloudUnreachable when nothing answers at ``url``, and
    SettingsError when ``name`` cannot be a worker's name.
    """
    values: dict[str, object] = {"home": home, "name": _checked(name)}
    given = {key: value for key, value in values.items() if value is not None}
    settings = WorkerSettings(url=url, join_token=token, **given)  # type: ignore[arg-type]  # keys and types are as above
    cloud = CloudClient(url)
    try:
        registered = _register(cloud, describe(settings, new_boot_id()), token)
    finally:
        cloud.close()
    save_registration(settings.state_folder, url, registered)
    return registered


def _checked(name: str | None) -> str | None:
    try:
        return None if name is None else worker_name(name)
    except ValueError as error:
        raise SettingsError(f"the worker name {error}") from error
