"""The one thread of a process that speaks to brokers, and its like in memory."""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any

from pika.adapters.select_connection import IOLoop

from genie import logs

Action = Callable[[], None]

log = logs.logger("messaging.iothread")


class IoThread:
    """Runs actions and timers, and whatever connections wait for, in one loop."""

    def __init__(
        self, loop: Any, run: Action, call_soon: Callable[[Action], object]
    ) -> None:
        self.loop, self._run_loop, self._call_soon = loop, run, call_soon
        self._actions: deque[Action] = deque()
        self._is_woken = False
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """True in this thread."""
        return threading.current_thread() is self._thread

    def call(self, action: Action) -> None:
        """Run ``action`` soon, from any thread; one wake-up serves all that wait."""
        self._actions.append(action)
        self._wake()

    def call_later(self, delay_s: float, action: Action) -> None:
        """Run ``action`` after a time; from any thread."""
        if self.is_here:
            self.loop.call_later(delay_s, lambda: self.guard(action))
        else:
            self.call(lambda: self.call_later(delay_s, action))

    def guard(self, action: Action) -> None:
        """Run ``action``; a mistake of ours must not end the thread of everybody."""
        try:
            action()
        except Exception as error:
            # Border: a process whose thread died looks healthy and hears nothing.
            kind = type(error).__name__
            log.critical("broker_thread", error=kind, exc_info=True)

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._call_soon(self._act)

    def _act(self) -> None:
        self._is_woken = False  # first: what is added from now on wakes it again
        for _ in range(len(self._actions)):
            self.guard(self._actions.popleft())
        if self._actions:
            self._wake()

    def _run(self) -> None:
        while True:
            self.guard(self._run_loop)


_starting = threading.Lock()


def thread() -> IoThread:
    """This process's thread; a forked process has another one than its parent."""
    with _starting:
        return _thread(os.getpid())


def memory_thread() -> IoThread:
    """The same for brokers in memory; it opens no socket."""
    with _starting:
        return _memory_thread(os.getpid())


@cache
def _thread(_pid: int) -> IoThread:
    loop = IOLoop()
    return IoThread(loop, loop.start, loop.add_callback_threadsafe)


@cache
def _memory_thread(_pid: int) -> IoThread:
    loop = asyncio.new_event_loop()
    return IoThread(loop, loop.run_forever, loop.call_soon_threadsafe)
