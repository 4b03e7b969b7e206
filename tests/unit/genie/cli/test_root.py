"""The command itself: its help, its errors and its exit codes."""

from collections.abc import Callable
from importlib import import_module

import click
import httpx2
import pytest
from click.testing import Result

from fixtures.twin_cloud import TwinCloud
from genie import errors
from genie.cli.root import COMMANDS, exit_code

Run = Callable[..., Result]

CHAT = "POST /v1/chat/completions"


def refusal(status: int, code: str | None = None) -> httpx2.Response:
    body = {"error": {"message": "no; do that", "code": code}}
    return httpx2.Response(status, json=body, headers={"x-request-id": "req_7"})


def test_help_lists_every_command_and_the_exit_codes(run: Run) -> None:
    done = run("--help")
    assert done.exit_code == 0
    for name, (_, text) in COMMANDS.items():
        assert f"{name} " in done.stdout
        assert text in done.stdout
    assert "130 stopped with Ctrl-C" in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_is_there_and_explains_itself(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.help


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").stdout.startswith("genie, version ")


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (refusal(400, "invalid_request"), 2),
        (refusal(401, "invalid_api_key"), 4),
        (refusal(403, "permission_denied"), 4),
        (refusal(404, "model_not_found"), 5),
        (refusal(429, "rate_limited"), 3),
        (refusal(500, "engine_died"), 1),
        (refusal(503, "no_capacity"), 3),
        (refusal(504, "job_timeout"), 1),
    ],
)
def test_each_way_of_failing_has_its_exit_code_and_its_line(
    run: Run, cloud: TwinCloud, reply: httpx2.Response, code: int
) -> None:
    cloud.replies[CHAT] = reply
    done = run("ask", "hi")
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr == "genie: no; do that (request req_7)\n"


def test_a_cloud_that_is_not_there_ends_with_3(run: Run, cloud: TwinCloud) -> None:
    cloud.replies[CHAT] = httpx2.ConnectError("refused")
    done = run("ask", "hi")
    assert done.exit_code == 3
    assert done.stderr.startswith("genie: cannot reach the cloud at http://127.0.0.1:1")
    assert "`genie up`" in done.stderr


def test_wrong_settings_end_with_2_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIE_URL", "genie.example.com")
    done = run("ask", "hi")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "GENIE_URL must start with http:// or https://" in done.stderr


def test_a_misspelt_command_gets_a_suggestion(run: Run) -> None:
    done = run("modles")
    assert done.exit_code == 2
    assert "did you mean `genie models`?" in done.stderr


def test_wrong_usage_points_to_the_help(run: Run) -> None:
    done = run("ask", "hi", "--max-tokens", "no")
    assert done.exit_code == 2
    assert done.stderr.startswith("genie: ")
    assert "`genie ask --help`" in done.stderr


def test_ctrl_c_ends_with_130(run: Run, cloud: TwinCloud) -> None:
    cloud.replies[CHAT] = KeyboardInterrupt()
    assert run("ask", "hi").exit_code == 130


def test_a_missing_extra_is_named_with_its_install_line(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies[CHAT] = ModuleNotFoundError("no celery", name="celery.app")
    done = run("ask", "hi")
    assert done.exit_code == 2
    assert "needs celery" in done.stderr
    assert "pip install 'genie-fleet[worker,cloud]'" in done.stderr


def test_every_error_class_has_an_exit_code_that_help_explains() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    found = [kind("x") for kind in kinds if issubclass(kind, errors.GenieError)]
    codes = {exit_code(error) for error in found}
    assert codes == {1, 2, 3, 4, 5}
