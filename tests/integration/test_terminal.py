"""The command in real processes, pipes and terminals, against a fleet that serves."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fixtures import ports
from genie import catalog
from genie.cli.embedded import EmbeddedFleet, EmbeddedFleetOptions

PATIENCE_S = 60.0
TABS = 10
ENTER_SCREEN, LEAVE_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
SHOW_CURSOR = b"\x1b[?25h"

ROOT = Path(__file__).parents[2]

Environ = dict[str, str]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environ]:
    """What a user's shell has while `genie up --echo` serves on this machine."""
    home = tmp_path_factory.mktemp("home")
    options = EmbeddedFleetOptions(
        home=home, port=ports.free_port(), catalog_path=catalog.ECHO
    )
    with EmbeddedFleet(options):
        yield {
            "GENIE_HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(home),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
        }


class Terminal:
    """One command on a terminal of its own, and all it has printed."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Environ,
        columns: int,
        rows: int,
    ) -> None:
        self.screen = b""
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=dict(environ),
            start_new_session=True,
            preexec_fn=lambda: _own(slave),  # noqa: PLW1509  # no threads start here
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def read_until(self, wanted: bytes | Callable[[bytes], bool]) -> None:
        """Read what is printed until it holds ``wanted``."""
        until = time.monotonic() + PATIENCE_S
        is_there = wanted if callable(wanted) else lambda screen: wanted in screen
        while not is_there(self.screen):
            assert time.monotonic() < until, self.screen
            self._take(0.2)

    def shows(self, wanted: bytes, seconds: float) -> bool:
        """True once ``wanted`` was printed; False after ``seconds`` without."""
        until = time.monotonic() + seconds
        while wanted not in self.screen and time.monotonic() < until:
            self._take(0.1)
        return wanted in self.screen

    def end(self) -> int:
        """The exit code, once the command has ended."""
        until = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < until, self.screen
            self._take(0.1)
        self._take(0.1)
        return self.process.returncode

    def modes(self) -> list[object]:
        """How the terminal treats keys now."""
        found: list[object] = termios.tcgetattr(self._slave)
        return found

    def _take(self, seconds: float) -> None:
        ready, _, _ = select.select([self._master], [], [], seconds)
        if ready:
            self.screen += os.read(self._master, 65_536)


def _own(descriptor: int) -> None:
    import fcntl

    # A shell that starts the tests in the background has them ignore Ctrl-C, and every
    # process below them; a person's shell does not.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def genie(*args: str) -> list[str]:
    return [sys.executable, "-m", "genie", *args]


def run(
    environ: Environ, *args: str, stdin: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        genie(*args),
        env=environ | more,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def shell(environ: Environ, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_what_is_piped_in_joins_the_prompt(environ: Environ) -> None:
    done = run(environ, "ask", "Review:", "-p", "review", stdin="a diff\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Review: a diff")
    assert done.stderr == ""


def test_a_reader_that_goes_away_ends_a_command_quietly(environ: Environ) -> None:
    line = "set -o pipefail; python -m genie jobs list --json | true"
    done = shell(environ, line)
    assert (done.returncode, done.stderr) == (141, "")
    done = shell(environ, "set -o pipefail; python -m genie --help | true")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ({"GENIE_URL": "http://127.0.0.1:1"}, 3, "cannot reach the cloud"),
        ({"GENIE_URL": "http://[::1"}, 2, "GENIE_URL is"),
        ({"GENIE_API_KEY": "sk-genie-local-wrong"}, 4, "not known here"),
        ({"GENIE_HOME": "/nowhere"}, 2, "there is no cloud to talk to"),
    ],
)
def test_each_fault_is_one_line_with_its_exit_code(
    environ: Environ, more: dict[str, str], code: int, said: str
) -> None:
    done = run(environ, "jobs", **more)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("genie: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_one_line(environ: Environ) -> None:
    done = shell(environ, "python -m genie personas > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "genie: No space left on device; fix that and try again\n"


def test_a_narrow_terminal_shows_whole_ids(environ: Environ) -> None:
    job_id = run(environ, "submit", "hi", "--max-tokens", "2").stdout.strip()
    assert run(environ, "jobs", "wait", job_id).stdout == "hi hi\n"
    for columns in (40, 80):
        with Terminal(genie("jobs"), environ, columns, 24) as terminal:
            assert terminal.end() == 0
        assert job_id.encode() in terminal.screen
        assert b"\x1b[32mcompleted" in terminal.screen or columns == 40


def test_no_color_leaves_the_colours_out(environ: Environ) -> None:
    run(environ, "ask", "hi", "--max-tokens", "2")
    with Terminal(genie("jobs"), environ | {"NO_COLOR": "1"}, 80, 24) as terminal:
        assert terminal.end() == 0
    assert b"completed" in terminal.screen
    assert b"\x1b[3" not in terminal.screen


def test_ctrl_c_leaves_a_job_to_the_fleet(environ: Environ) -> None:
    words = " ".join(["word"] * 400)
    command = genie("submit", words, "--wait", "--max-tokens", "2000")
    with Terminal(command, environ, 80, 24) as terminal:
        job_id = _newest_running(environ)
        terminal.type("\x03")
        assert terminal.end() == 130
    assert f"`genie jobs wait {job_id}` follows it".encode() in terminal.screen
    shown = json.loads(run(environ, "jobs", "show", job_id, "--json").stdout)
    assert shown["status"] in ("running", "completed")
    run(environ, "jobs", "cancel", job_id)


def _newest_running(environ: Environ) -> str:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found = json.loads(run(environ, "jobs", "--json", "--state", "running").stdout)
        if found:
            return str(found[0]["id"])
    raise AssertionError("the job never ran")


@pytest.mark.parametrize("key", ["q", "\x03"])
@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (160, 50)])
def test_top_fills_the_screen_and_leaves_the_terminal_as_it_was(
    environ: Environ, key: str, columns: int, rows: int
) -> None:
    with Terminal(genie("top", "--every", "0.5"), environ, columns, rows) as terminal:
        terminal.read_until(b"q leaves")
        terminal.read_until(lambda screen: screen.count(b"Genie Fleet") >= 2)
        terminal.type(key)
        assert terminal.end() == 0
        assert terminal.modes() == terminal.before
    assert ENTER_SCREEN in terminal.screen
    assert terminal.screen.rindex(LEAVE_SCREEN) > terminal.screen.index(ENTER_SCREEN)
    assert b"Traceback" not in terminal.screen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_top_that_is_told_to_end_leaves_the_screen(
    environ: Environ, number: signal.Signals
) -> None:
    with Terminal(genie("top"), environ, 80, 24) as terminal:
        terminal.read_until(b"q leaves")
        terminal.process.send_signal(number)
        assert terminal.end() == 0
        assert terminal.modes() == terminal.before
    assert terminal.screen.endswith(SHOW_CURSOR + LEAVE_SCREEN)


def test_top_without_a_keyboard_says_that_ctrl_c_leaves(environ: Environ) -> None:
    command = ["bash", "-c", "python -m genie top < /dev/null"]
    with Terminal(command, environ, 80, 24) as terminal:
        terminal.read_until(b"Ctrl-C leaves")
        terminal.type("\x03")
        assert terminal.end() == 0


def test_top_prints_one_plain_frame_into_a_pipe(environ: Environ) -> None:
    done = run(environ, "top")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "echo:small" in done.stdout


COMPLETE = """
eval "$(python -m genie completion bash)"
compopt() { :; }
COMP_LINE=$1 COMP_POINT=${#1}
_genie_completion genie
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(environ: Environ, line: str) -> set[str]:
    """What bash would offer; asked again while a busy machine is too slow to say."""
    until = time.monotonic() + PATIENCE_S
    while True:
        done = subprocess.run(
            ["bash", "--norc", "-c", COMPLETE, "bash", line],
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.stderr == ""
        if done.stdout.strip() or time.monotonic() > until:
            return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("genie jobs sh", {"show"}),
        ("genie ask -p rev", {"review"}),
        ("genie ask --persona=rev", {"review"}),
        ("genie ask 'two words' -p rev", {"review"}),
        ("genie ask -m echo:sm", {"small"}),
        ("genie jobs --state comp", {"completed"}),
    ],
)
def test_bash_completes_a_word(environ: Environ, line: str, offered: set[str]) -> None:
    assert completed(environ, line) == offered


def test_bash_at_a_terminal_completes_the_name_of_a_model(environ: Environ) -> None:
    with Terminal(["bash", "--norc", "-i"], environ, 80, 24) as terminal:
        terminal.type("PS1='> '; eval \"$(genie completion bash)\"; echo rea'dy'\n")
        terminal.read_until(b"ready\r")
        terminal.type("echo | genie route -m echo:sma")
        for _ in range(TABS):  # a busy machine may be too slow to offer anything
            terminal.type("\t")
            if terminal.shows(b"echo:small ", 3.0):
                break
        terminal.type("\n")
        terminal.read_until(b"because")
        terminal.type("exit\n")
        assert terminal.end() == 0
