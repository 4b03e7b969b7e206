"""The bounds of the web server, and the names of waitress that it is built on."""

import threading

import pytest
from waitress import channel, parser, server, task, utilities, wasyncore

from cloud_app import server as server_module
from cloud_app.server import (
    FORM_BYTES,
    FREE_BYTES,
    STARTS,
    ByteBudget,
    ServerLimits,
    Starts,
)

NAMES = {
    channel.HTTPChannel: (
        *("parser_class", "error_task_class", "task_class", "request", "send"),
        "total_outbufs_len",
        *("last_activity", "close_when_flushed", "will_close"),
        *("readable", "writable", "received", "service", "handle_close"),
    ),
    parser.HTTPRequestParser: (
        *("completed", "expect_continue", "content_length", "body_bytes_received"),
        *("body_rcv", "version", "error", "received", "parse_header", "close"),
    ),
    parser: ("ParsingError",),
    server: ("create_server",),
    server.BaseWSGIServer: (
        *("channel_class", "accepting", "in_connection_overflow", "pull_trigger"),
        "add_task",
    ),
    task.WSGITask: ("get_environment",),
    task.ErrorTask: ("service",),
    task.ThreadedTaskDispatcher: (
        *("active_count", "start_new_thread", "handler_thread", "shutdown"),
        "add_task",
    ),
    utilities: ("Error",),
    utilities.Error: ("code", "to_response"),
    wasyncore: ("loop", "close_all"),
    wasyncore.dispatcher: ("close",),
}


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for owner, names in NAMES.items() for name in names],
    ids=[
        f"{owner.__name__}.{name}" for owner, names in NAMES.items() for name in names
    ],
)
def test_waitress_has_a_name_that_the_server_is_built_on(
    owner: object, name: str
) -> None:
    assert hasattr(owner, name)


def test_its_objects_have_what_the_server_reads() -> None:
    threads = task.ThreadedTaskDispatcher()
    assert (len(threads.queue), len(threads.threads)) == (0, 0)
    assert threads.lock is not None
    assert threads.queue_cv is not None
    reading = parser.HTTPRequestParser(server.Adjustments())
    reading.received(b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\n")
    assert reading.headers == {"HOST": "b", "CONTENT_LENGTH": "3"}
    assert (reading.path, reading.content_length) == ("/a", 3)
    assert utilities.Error("why").body == "why"


def test_only_files_may_be_large_and_only_what_takes_keys_more_than_a_form() -> None:
    limits = ServerLimits(threads=1, body_bytes=1_000_000, file_bytes=9_000_000)
    assert limits.of_path("/v1/chat/completions") == 1_000_000
    assert limits.of_path("/fleet/v1/heartbeat") == 1_000_000
    assert limits.of_path("/v1/files") == 9_000_000 + FORM_BYTES
    assert limits.of_path("/admin/login") == FREE_BYTES


def test_a_budget_gives_what_is_left_and_takes_it_back() -> None:
    budget = ByteBudget(10)
    assert [budget.take(6), budget.take(5), budget.take(4)] == [True, False, True]
    budget.give_back(6)
    assert budget.used == 4


def begun(starts: Starts, who: str) -> threading.Event:
    """Set once a thread has its start."""
    has_begun = threading.Event()

    def begin() -> None:
        starts.begin(who)
        has_begun.set()

    threading.Thread(target=begin, daemon=True).start()
    return has_begun


def test_a_start_that_ends_is_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "START_S", 60.0)
    starts = Starts()
    for number in range(STARTS):
        starts.begin(number)
    waiting = begun(starts, "next")
    assert not waiting.wait(0.05)
    starts.end(0)
    assert waiting.wait(10)


def test_ending_twice_gives_nobody_another_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "START_S", 60.0)
    starts = Starts()
    for number in range(STARTS):
        starts.begin(number)
    starts.end(0)
    starts.end(0)
    assert begun(starts, "first").wait(10)
    assert not begun(starts, "second").wait(0.05)


def test_nobody_waits_for_a_start_that_is_overdue() -> None:
    starts = Starts()
    for number in range(STARTS):
        starts.begin(number)
    assert begun(starts, "next").wait(10)
    starts.end("next")
    assert begun(starts, "another").wait(10)
