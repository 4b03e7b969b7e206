"""The command itself: its help, its errors and its exit codes."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import click
import httpx2
import pytest
from click.testing import CliRunner, Result

from fixtures.twin_cloud import TwinCloud
from genie import errors
from genie.cli.root import COMMANDS, exit_code, genie

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


def test_a_server_that_is_no_cloud_is_told_with_the_next_step(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies["GET /v1/jobs"] = httpx2.Response(404, text="<h1>Not found</h1>")
    done = run("jobs")
    assert done.exit_code == 5
    assert "does GENIE_URL point to a Genie cloud" in done.stderr
    cloud.replies["GET /v1/jobs"] = httpx2.Response(200, text="<h1>Hello</h1>")
    done = run("jobs")
    assert done.exit_code == 1
    assert "does GENIE_URL point to a Genie cloud" in done.stderr


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


@pytest.mark.parametrize("args", [(), ("worker",), ("db",)])
def test_a_group_without_a_verb_shows_its_whole_help(
    run: Run, args: tuple[str, ...]
) -> None:
    done = run(*args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: genie")
    assert "\nCommands:\n" in done.stderr


def test_ctrl_c_ends_with_130_and_says_that_the_question_is_dropped(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies[CHAT] = KeyboardInterrupt()
    done = run("ask", "hi")
    assert done.exit_code == 130
    assert "its job is cancelled; jobs of `genie submit` go on" in done.stderr


def test_every_command_that_prints_takes_json() -> None:
    silent = {
        "genie completion": "prints a script for a shell",
        "genie up": "serves until it is stopped",
        "genie web": "serves until it is stopped",
        "genie worker start": "serves until it is stopped",
    }
    without = {
        path
        for path, command in every_command()
        if not any("--json" in option.opts for option in command.params)
    }
    assert without == silent.keys()


def test_every_command_explains_itself_and_each_of_its_options() -> None:
    for path, command in every_command():
        assert command.help, path
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (path, option.name)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_is_cut_on_a_terminal_of_80_columns(name: str) -> None:
    command = genie.get_command(click.Context(genie), name)
    assert command is not None
    text = command.get_help(
        click.Context(command, terminal_width=78)
    )  # as click has it
    assert "...\n" not in text.replace("[ARGS]...", "")


def every_command() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by what a person types."""
    pending: list[tuple[str, click.Command | None]] = [("genie", genie)]
    while pending:
        path, command = pending.pop()
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            names = command.list_commands(ctx)
            pending += [(f"{path} {n}", command.get_command(ctx, n)) for n in names]
        elif command is not None:
            yield path, command


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GENIE_URL", "http://[::1", "GENIE_URL is 'http://[::1', no address"),
        ("GENIE_URL", "http://host:no", "GENIE_URL is 'http://host:no', no address"),
        ("GENIE_URL", "http://a b", "GENIE_URL is 'http://a b', no address"),
        ("GENIE_API_KEY", "schlüssel", "copy it again, whole, to GENIE_API_KEY"),
    ],
)
def test_an_address_or_a_key_that_is_none_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    done = CliRunner().invoke(genie, ["jobs"])
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_text_that_is_not_utf_8_ends_with_2(run: Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(genie, ["ask", "review"], input=b"\xff\xfe")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "standard input is not UTF-8 text" in done.stderr
    done = run("ask", "\udcff")
    assert done.exit_code == 2
    assert "an argument is not UTF-8 text" in done.stderr
    prompts = tmp_path / "prompts"
    prompts.write_bytes(b"\xff\xfe")
    done = run("batch", "submit", str(prompts), "--prompts")
    assert done.exit_code == 2
    assert "is not UTF-8 text" in done.stderr


def test_a_file_that_cannot_be_written_ends_with_1(run: Run, cloud: TwinCloud) -> None:
    cloud.replies[CHAT] = PermissionError(13, "Permission denied", "/x/y")
    done = run("ask", "hi")
    assert done.exit_code == 1
    assert done.stderr == "genie: Permission denied: /x/y; fix that and try again\n"


def test_a_missing_extra_is_named_with_its_install_line(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies[CHAT] = ModuleNotFoundError("no celery", name="celery.app")
    done = run("ask", "hi")
    assert done.exit_code == 2
    assert "needs celery" in done.stderr
    assert "with its extra [cloud] or [worker]" in done.stderr


def test_every_error_class_has_an_exit_code_that_help_explains() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    found = [kind("x") for kind in kinds if issubclass(kind, errors.GenieError)]
    codes = {exit_code(error) for error in found}
    assert codes == {1, 2, 3, 4, 5}
