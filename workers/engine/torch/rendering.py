"""A chat template is a program of its model's maker: what it may take to render.

transformers runs it in jinja2's immutable sandbox, so it reaches no attribute and
changes nothing. Time and memory are not the sandbox's matter; they are bounded here,
around the rendering alone: tokenizing what came out has no limit to run into.
"""

import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2 import Environment, TemplateError
from transformers import tokenization_utils_base
from transformers.utils import chat_template_utils

from workers.engine.errors import LoadFailed, load_failed

CPU_S = 1.0
"""A thousand messages with a hundred tools take some hundredths of a second."""

MEMORY_BYTES = 512 * 1024**2
TEXT_MOST = 16 * 1024**2
"""Characters of a prompt: sixteen times what one message may carry."""


class TemplateTooExpensive(TemplateError):
    """A template took more than it may."""


def check(template: str) -> None:
    """Refuse a template that cannot be read within bounds; raises LoadFailed.

    One power of large numbers is one step of Python, however many hours it takes.
    """
    lexed = Environment(autoescape=False).lex(template)  # noqa: S701  # read, not run
    if any((kind, text) == ("operator", "**") for _, kind, text in lexed):
        raise _unsafe("computes powers; none needs to")
    try:
        with bounded():  # constants are computed here already
            chat_template_utils._compile_jinja_template(template)
    except TemplateTooExpensive as error:
        raise _unsafe(f"cannot be read: {error.message}") from error


def _unsafe(why: str) -> LoadFailed:
    return load_failed("unsafe_template", f"this model's chat template {why}")


@contextmanager
def bounded() -> Iterator[None]:
    """No more than `CPU_S` of this process's time and `MEMORY_BYTES` more memory."""
    try:
        with _memory(), _time():
            yield
    except MemoryError as error:
        most = f"{MEMORY_BYTES // 1024**2} MiB"
        raise TemplateTooExpensive(f"it takes more than {most} of memory") from error


def _render(render: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(render)
    def bounded_render(*args: Any, **kwargs: Any) -> Any:
        with bounded():
            rendered, generated = render(*args, **kwargs)
        if max(map(len, rendered)) > TEXT_MOST:
            raise TemplateTooExpensive(
                f"it writes more than {TEXT_MOST} characters of them"
            )
        return rendered, generated

    return bounded_render


@contextmanager
def _memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _address_space() + MEMORY_BYTES
    is_tighter = soft == resource.RLIM_INFINITY or most < soft
    if is_tighter:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        if is_tighter:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


@contextmanager
def _time() -> Iterator[None]:
    # Only a main thread hears signals; the engine's loop is its process's.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_on = True

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if is_on:  # one that was on its way when the timer was stopped hurts nobody
            raise TemplateTooExpensive(f"it takes more than {CPU_S:g} s")

    # The process's own time: a busy machine must not make a template guilty.
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S)
    try:
        yield
    finally:
        is_on = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def install() -> None:
    """Bound every rendering of this process."""
    # Patched, since transformers tokenizes in the same call, and sanitises only then.
    module: Any = tokenization_utils_base
    if not hasattr(module.render_jinja_template, "__wrapped__"):
        module.render_jinja_template = _render(module.render_jinja_template)
