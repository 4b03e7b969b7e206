"""The fleet API, joining, and what is remembered of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from genie.contracts import codec
from genie.contracts.fleet import (
    EngineMemory,
    Heartbeat,
    HeartbeatReply,
    Registration,
    RegistrationReply,
)
from genie.errors import BadRequest, CloudUnreachable, SettingsError, Unauthorized
from workers import hardware, join
from workers.cloud import CloudClient
from workers.settings import WorkerSettings

URL = "https://genie.example"
REGISTERED = RegistrationReply(
    worker_id="w1",
    worker_secret="gw-secret",
    name="ann",
    org="acme",
    broker_url="memory://",
    queues=("genie",),
)
BEAT = Heartbeat(seq=1, boot_id="b", host=hardware.host_status(Path("/")))

Answer = Callable[[httpx2.Request], httpx2.Response]


def cloud(answer: Answer) -> CloudClient:
    return CloudClient(URL + "/", transport=httpx2.MockTransport(answer))


def fixed(status: int, body: bytes) -> Answer:
    return lambda _request: httpx2.Response(status, content=body)


def settings(folder: Path, token: str | None = None) -> WorkerSettings:
    return WorkerSettings(url=URL, home=folder, name="ann", join_token=token)


def doorman(*accepted: str) -> tuple[Answer, list[str]]:
    """A cloud that registers whoever brings one of ``accepted``."""
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers["Authorization"].removeprefix("Bearer "))
        if seen[-1] in accepted:
            return httpx2.Response(200, content=codec.encode(REGISTERED))
        return httpx2.Response(401, json={"error": {"message": "not you"}})

    return answer, seen


def test_a_heartbeat_goes_out_with_the_secret_and_brings_the_desired_set() -> None:
    reply = HeartbeatReply(ack_seq=1, server_time=datetime.now(UTC), next_in_s=30)
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, content=codec.encode(reply))

    assert cloud(answer).heartbeat(BEAT, "gw-secret") == reply
    assert str(requests[0].url) == f"{URL}/fleet/v1/heartbeat"
    assert requests[0].headers["Authorization"] == "Bearer gw-secret"
    assert codec.decode(Heartbeat, requests[0].content) == BEAT


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b'{"error": {"message": "revoked"}}', Unauthorized),
        (403, b"", Unauthorized),
        (400, b'{"error": {"message": "protocol 2"}}', BadRequest),
        (404, b"<html>", CloudUnreachable),
        (503, b"", CloudUnreachable),
        (200, b"<html>a login page</html>", CloudUnreachable),
        (200, b'{"ack_seq": 1}', CloudUnreachable),
    ],
)
def test_every_wrong_answer_is_an_error_that_says_what_to_do(
    status: int, body: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        cloud(fixed(status, body)).heartbeat(BEAT, "gw-secret")


def test_a_cloud_that_does_not_answer_is_unreachable() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    with pytest.raises(CloudUnreachable, match="check GENIE_URL"):
        cloud(refuse).heartbeat(BEAT, "gw-secret")


def test_a_new_worker_joins_with_its_token_and_keeps_its_secret(tmp_path: Path) -> None:
    answer, seen = doorman("gj-token")
    mine = settings(tmp_path, "gj-token")
    assert join.enrol(mine, cloud(answer), "boot") == REGISTERED
    assert seen == ["gj-token"]
    assert join.saved_registration(mine.state_folder, URL) == REGISTERED
    mode = (mine.state_folder / join.IDENTITY_FILE).stat().st_mode
    assert mode & 0o777 == 0o600


def test_a_worker_tells_what_its_engines_are(tmp_path: Path) -> None:
    said: list[Registration] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        said.append(codec.decode(Registration, request.content))
        return httpx2.Response(200, content=codec.encode(REGISTERED))

    join.enrol(settings(tmp_path, "gj-token"), cloud(answer), "boot")
    assert said[0].engines == ("echo", "transformers")
    echo, transformers = said[0].engine_facts
    assert (echo.sources, echo.memory) == (("echo",), EngineMemory.NONE)
    assert transformers.sources == ("hf", "path", "pypi")
    assert "float32" in transformers.dtypes
    assert transformers.version


def test_to_a_cloud_of_the_release_before_it_only_names_its_engines(
    tmp_path: Path,
) -> None:
    said: list[Registration] = []

    def strict(request: httpx2.Request) -> httpx2.Response:
        said.append(codec.decode(Registration, request.content))
        if said[-1].engine_facts:
            message = "Registration: Object contains unknown field `engine_facts`"
            return httpx2.Response(400, json={"error": {"message": message}})
        return httpx2.Response(200, content=codec.encode(REGISTERED))

    mine = settings(tmp_path, "gj-token")
    assert join.enrol(mine, cloud(strict), "boot") == REGISTERED
    assert [bool(one.engine_facts) for one in said] == [True, False]
    assert said[1].engines == said[0].engines


def test_a_known_worker_registers_with_its_own_secret_first(tmp_path: Path) -> None:
    mine = settings(tmp_path, "gj-used")
    join.save_registration(mine.state_folder, URL, REGISTERED)
    answer, seen = doorman("gw-secret")
    join.enrol(mine, cloud(answer), "boot")
    assert seen == ["gw-secret"]


def test_a_worker_whose_secret_is_refused_tries_its_token(tmp_path: Path) -> None:
    mine = settings(tmp_path, "gj-fresh")
    join.save_registration(mine.state_folder, URL, REGISTERED)
    answer, seen = doorman("gj-fresh")
    join.enrol(mine, cloud(answer), "boot")
    assert seen == ["gw-secret", "gj-fresh"]


def test_a_worker_nobody_accepts_is_told_how_to_join(tmp_path: Path) -> None:
    answer, _ = doorman()
    with pytest.raises(Unauthorized, match=r"not you.*genie worker join"):
        join.enrol(settings(tmp_path, "gj-old"), cloud(answer), "boot")
    with pytest.raises(Unauthorized, match=r"no credentials yet.*genie worker join"):
        join.enrol(settings(tmp_path), cloud(answer), "boot")


def test_a_known_worker_starts_while_the_cloud_is_away_and_a_new_one_does_not(
    tmp_path: Path,
) -> None:
    mine, away = settings(tmp_path, "gj-token"), cloud(fixed(502, b""))
    with pytest.raises(CloudUnreachable):
        join.resume(mine, away, "boot")
    join.save_registration(mine.state_folder, URL, REGISTERED)
    assert join.resume(mine, away, "boot") == REGISTERED


def test_credentials_of_another_cloud_are_not_used(tmp_path: Path) -> None:
    mine = settings(tmp_path)
    join.save_registration(mine.state_folder, "https://other.example", REGISTERED)
    assert join.saved_registration(mine.state_folder, URL) is None
    other = replace(mine, url=URL + "/")
    join.save_registration(mine.state_folder, URL, REGISTERED)
    assert join.saved_registration(mine.state_folder, other.url) == REGISTERED


def test_a_damaged_credentials_file_is_named_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / join.IDENTITY_FILE).write_text("{")
    with pytest.raises(SettingsError, match=r"worker\.json cannot be used.*join again"):
        join.saved_registration(tmp_path, URL)


def test_a_worker_name_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="worker name"):
        join.join(URL, "gj-token", tmp_path, "../up")
