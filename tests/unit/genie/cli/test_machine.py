"""The commands about this machine: models on its disk, its database, its health."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from click.testing import Result

from cloud_app import store
from fixtures.later import LATER, later_schema
from fixtures.twin_cloud import TwinCloud
from genie import catalog
from genie.cli.doctor import Check, Verdict, broker, database
from genie.contracts.fleet import RegistrationReply

Run = Callable[..., Result]

HEALTHY = {"status": "ok", "checks": {"database": "ok"}, "version": "0.1.0"}
READY = {"data": [{"id": "m", "genie": {"ready": True}}]}


def verdicts(done: Result) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in json.loads(done.stdout)}


def test_a_healthy_fleet_passes_every_check_of_the_cloud(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies = {"GET /health": HEALTHY, "GET /v1/models": READY}
    done = run("doctor", "--json")
    found = verdicts(done)
    assert done.exit_code == 0
    assert {found[name] for name in ("settings", "cloud", "cloud database", "key")} == {
        "ok"
    }
    assert "fail" not in found.values()


def test_a_sick_cloud_fails_with_the_part_that_is_sick(
    run: Run, cloud: TwinCloud
) -> None:
    sick = {"status": "unavailable", "checks": {"database": "cannot be reached"}}
    reply = httpx2.Response(503, json=sick)
    cloud.replies = {"GET /health": reply, "GET /v1/models": READY}
    done = run("doctor")
    assert done.exit_code == 1
    assert "fail\tcloud database\tcannot be reached\tfix this" in done.stdout


def test_a_cloud_that_is_away_fails_with_the_next_step(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies = {"GET /health": httpx2.ConnectError("refused")}
    done = run("doctor")
    assert done.exit_code == 1
    assert "fail\tcloud\tcannot reach the cloud" in done.stdout
    assert "`genie up` starts one here" in done.stdout


def test_a_wrong_key_and_a_fleet_without_models_are_told(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies = {"GET /health": HEALTHY, "GET /v1/models": httpx2.Response(401)}
    assert verdicts(run("doctor", "--json"))["key"] == "fail"
    cloud.replies["GET /v1/models"] = {"data": [{"id": "m"}]}
    done = run("doctor", "--json")
    assert verdicts(done)["key"] == "warn"
    assert done.exit_code == 0


def test_wrong_settings_fail_and_the_rest_is_looked_at(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIE_BROKER_URL", "http://nowhere")
    found = verdicts(run("doctor", "--json"))
    assert found["settings"] == "fail"
    assert "disk" in found


def test_an_empty_database_fails_with_the_command_to_run(tmp_path: Path) -> None:
    check = database(f"sqlite:///{tmp_path}/genie.db")
    assert check.verdict is Verdict.FAIL
    assert check.next_step == "run `genie db upgrade`"


def test_a_broker_in_this_process_is_always_there() -> None:
    assert broker("memory://") == Check(
        name="broker", verdict=Verdict.OK, detail="in this process"
    )


def test_the_schema_goes_up_and_down(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENIE_DATABASE_URL", f"sqlite:///{tmp_path}/genie.db")
    assert run("db", "check").exit_code == 2
    assert run("db", "upgrade").exit_code == 0
    assert "as this release needs" in run("db", "check").stdout
    assert run("db", "downgrade", "base", stdin="n\n").exit_code == 130
    done = run("db", "downgrade", "base", "--yes")
    assert done.stdout == "schema is at nothing\n"
    assert run("db", "upgrade").exit_code == 0


def test_the_schema_of_a_later_release_is_said_to_be_one_and_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/genie.db"
    monkeypatch.setenv("GENIE_DATABASE_URL", url)
    assert run("db", "upgrade").exit_code == 0
    db = store.Database(url)
    later_schema(db)
    db.dispose()
    for command in ("check", "upgrade"):
        assert f"{LATER}, of a later release" in run("db", command).stdout
    done = run("db", "downgrade", "base", "--yes")
    assert done.exit_code == 2
    assert "use the release that made it" in done.stderr
    check = database(url)
    assert check.verdict is Verdict.OK
    assert "a later release" in check.detail


def test_the_schema_of_no_database_names_the_variable(run: Run) -> None:
    done = run("db", "check")
    assert done.exit_code == 2
    assert "GENIE_DATABASE_URL is missing" in done.stderr


@pytest.fixture
def own_catalog(tmp_path: Path) -> Path:
    """A catalog with one model whose files lie in a folder here."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"x" * 1000)
    file = tmp_path / "catalog.toml"
    file.write_text(
        f"""
[[models]]
id = "tiny:1"
family = "llama"
parameters = 1000
license = "Apache-2.0"
source = "path:{weights}"
context_max = 128
layers = 1
kv_heads = 1
head_dim = 8
quants = [{{ name = "f32", dtype = "float32" }}]

[[personas]]
name = "chat"
tier = "lite"
ladder = ["tiny:1"]
"""
    )
    return file


def test_a_model_is_pulled_listed_and_removed(run: Run, own_catalog: Path) -> None:
    done = run("models", "pull", "tiny:1", "--catalog", str(own_catalog))
    assert done.exit_code == 0, done.stderr
    assert "tiny:1" in run("models", "ls").stdout
    (stored,) = json.loads(run("models", "ls", "--json").stdout)
    assert stored["id"] == "tiny:1"
    assert run("models", "rm", "tiny:1").exit_code == 0
    assert run("models", "ls").stdout == ""


def test_removing_what_is_not_there_ends_with_5(run: Run) -> None:
    done = run("models", "rm", "tiny:1")
    assert done.exit_code == 5
    assert "`genie models ls`" in done.stderr


def test_pulling_an_unknown_model_gets_a_suggestion(run: Run) -> None:
    done = run("models", "pull", "smollm2:136m")
    assert done.exit_code == 5
    assert "did you mean smollm2:135m" in done.stderr


def test_pulling_a_model_without_weights_says_so(run: Run) -> None:
    echo = next(iter(catalog.load(catalog.ECHO).models))
    done = run("models", "pull", echo, "--catalog", str(catalog.ECHO))
    assert done.stdout == f"{echo} has no weights\n"


def test_a_pull_that_fails_ends_with_1_and_the_reason(
    run: Run, own_catalog: Path
) -> None:
    text = own_catalog.read_text().replace("/weights", "/nowhere")
    own_catalog.write_text(text)
    done = run("models", "pull", "tiny:1", "--catalog", str(own_catalog))
    assert done.exit_code == 1
    assert "genie: " in done.stderr


def test_joining_asks_for_the_token_and_shows_who_we_are(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def join(url: str, token: str, name: str | None = None) -> RegistrationReply:
        asked.append((url, token, name))
        return RegistrationReply(
            worker_id="w1",
            worker_secret="gw-w1-x",
            name="gpu-1",
            org="acme",
            broker_url="amqp://broker",
            queues=("genie",),
        )

    monkeypatch.setattr("workers.join.join", join)
    done = run("worker", "join", "http://cloud/", "--name", "gpu-1", stdin="gj-1\n")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "w1\tgpu-1\n"
    assert "gw-w1-x" not in done.output
    assert asked == [("http://cloud", "gj-1", "gpu-1")]
