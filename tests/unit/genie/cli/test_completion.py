"""What a shell is offered, word by word."""

import threading
from collections.abc import Callable

import httpx2
import pytest
from click.shell_completion import ShellComplete
from click.testing import Result

from fixtures.twin_cloud import TwinCloud
from genie.cli import hints
from genie.cli.output import CommandSession
from genie.cli.root import COMMANDS, genie

Run = Callable[..., Result]
Offer = Callable[..., list[str]]

PATIENCE_S = 30.0
PERSONAS = [{"id": "review", "tier": "coder", "ladder": ["m"]}, {"id": "rollup"}]
MODELS = [{"id": "qwen3:4b", "genie": {"ready": True}}, {"id": "smollm2:135m"}]


@pytest.fixture
def offer(cloud: TwinCloud) -> Offer:
    """The words offered for the last one, after those before it."""

    def complete(*args: str, last: str = "") -> list[str]:
        obj = {"obj": CommandSession(connect=cloud.client)}
        shell = ShellComplete(genie, obj, "genie", "_GENIE_COMPLETE")
        return [item.value for item in shell.get_completions(list(args), last)]

    cloud.replies = {
        "GET /v1/personas": PERSONAS,
        "GET /v1/models": MODELS,
        "GET /v1/jobs": [{"id": "01a", "status": "running"}],
        "GET /v1/batches": {"data": [{"id": "batch_1", "status": "completed"}]},
        "GET /v1/workers": [{"id": "w", "name": "gpu-1"}],
        "GET /v1/keys": [{"id": "k1", "name": "ci"}, {"id": "k2", "name": "old"}],
        "GET /v1/dead-letters": [{"id": "l1", "queue": "genie"}],
        "GET /v1/schedules": [
            {"id": "s", "name": "news", "cron": "@daily", "timezone": "UTC"}
        ],
    }
    return complete


def test_commands_are_offered_without_importing_one(offer: Offer) -> None:
    assert offer() == list(COMMANDS)
    assert offer(last="jo") == ["jobs"]


def test_verbs_and_the_options_of_a_list_are_offered(offer: Offer) -> None:
    assert "wait" in offer("jobs")
    assert offer("jobs", last="--st") == ["--state"]
    assert offer("jobs", "--state", last="c") == ["completed", "cancelled"]
    assert offer("jobs", last="--h") == ["--help"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("ask", "-p"), ["review", "rollup"]),
        (("jobs", "list", "--persona"), ["review", "rollup"]),
        (("ask", "-m"), ["qwen3:4b", "smollm2:135m", "coder"]),
        (("keys", "create", "ci", "--model"), ["qwen3:4b", "smollm2:135m", "coder"]),
        (("jobs", "-w"), ["gpu-1"]),
        (("jobs", "show"), ["01a"]),
        (("jobs", "cancel", "01b"), ["01a"]),
        (("batch", "wait"), ["batch_1"]),
        (("schedule", "pause"), ["news"]),
        (("dead-letters", "replay"), ["l1"]),
        (("keys", "revoke"), ["k1", "k2"]),
    ],
)
def test_names_the_cloud_knows_are_offered(
    offer: Offer, args: tuple[str, ...], words: list[str]
) -> None:
    assert offer(*args) == words


def test_only_names_that_begin_so_are_offered(offer: Offer) -> None:
    assert offer("ask", "-p", last="ro") == ["rollup"]
    assert offer("ask", last="--persona=ro") == ["rollup"]
    assert "qwen3:4b" in offer("models", "pull", last="qwen3")
    assert offer("models", "pull", last="none") == []


@pytest.mark.parametrize(
    "reply", [httpx2.ConnectError("refused"), httpx2.Response(401, json={}), {"a": 1}]
)
def test_a_cloud_that_fails_offers_nothing_and_says_nothing(
    offer: Offer,
    cloud: TwinCloud,
    reply: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cloud.replies["GET /v1/personas"] = reply
    assert offer("ask", "-p") == []
    assert capsys.readouterr() == ("", "")


def test_a_cloud_that_is_slow_is_not_waited_for(
    offer: Offer, cloud: TwinCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    class Slow(TwinCloud):
        def _reply(self, request: httpx2.Request) -> httpx2.Response:
            answered.wait(PATIENCE_S)
            return super()._reply(request)

    slow = Slow()
    slow.replies = cloud.replies
    monkeypatch.setattr(hints, "PATIENCE_S", 0.01)
    monkeypatch.setattr(cloud, "client", slow.client)
    assert offer("ask", "-p") == []
    answered.set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert done.exit_code == 0
    assert f"_GENIE_COMPLETE={shell}_complete" in done.stdout
    assert "complete" in done.stdout.splitlines()[-1] or shell == "zsh"


def test_another_shell_is_wrong_usage(run: Run) -> None:
    assert run("completion", "cmd").exit_code == 2
