"""A hostile chat template ends as a refused request, and the engine serves on."""

import resource
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from fixtures import tiny
from genie.contracts.inference import Message
from workers.engine.errors import LoadFailed, RequestRefused
from workers.engine.torch import rendering
from workers.engine.torch.prompts import PromptRenderer

FINE = tiny.CHATML
SECRET = "{% if messages[0].content == 'trigger' %}EVIL{% endif %}" + FINE

HOSTILE = {
    "reads subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reads code": "{{ cycler.__init__.__globals__.os.environ }}",
    "changes messages": "{{ messages.append(1) }}",
    "calls a method of numbers": "{{ (1).__add__(1) }}",
    "runs for ever": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "runs a long range": "{% for a in range(9999999) %}{% endfor %}",
    "doubles a text": (
        "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(40) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
    ),
    "repeats a text": "{{ 'a' * 100000000000 }}",
    "writes too much": "{{ 'a' * 20000000 }}",
    "pads a number": "{% set n = 2000000000 %}{{ '%0*d' | format(n, 1) }}",
    "is made of a constant": "{{ 'a' | center(2000000000) }}",
    "calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}

HARMLESS = (
    "{{ messages.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ messages | attr('__class__') }}",
    "{{ '{0.__class__}'.format(messages) }}",
)
"""What the sandbox shows as nothing."""


def prompts(template: str) -> PromptRenderer:
    return PromptRenderer(tiny.byte_tokenizer(template))


def evil(what: str) -> str:
    return SECRET.replace("EVIL", what)


@pytest.mark.parametrize("what", HOSTILE.values(), ids=HOSTILE)
def test_it_is_refused_within_bounds(bench: Callable[..., Any], what: str) -> None:
    made = bench("llama")
    made.backend._prompts = prompts(evil(what))
    made.backend._prompts.guard()
    began = time.process_time()
    _, finish = made.answer(asked("trigger"))
    assert time.process_time() - began < 20 * rendering.CPU_S
    assert finish.fault is not None
    assert finish.fault.code in ("invalid_request", "engine_error")
    assert "environ" not in finish.fault.message
    _, finish = made.answer(asked("hello", "again"))
    assert finish.fault is None


def asked(content: str, name: str = "r") -> Any:
    from unit.workers.engine.conftest import ask

    return ask(name, chat=content)


def test_nothing_of_the_bounds_stays_behind() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.getsignal(signal.SIGVTALRM)
    made = prompts(evil(HOSTILE["runs for ever"]))
    for content in ("trigger", "hello"):
        message = (Message(role="user", content=content),)
        if content == "trigger":
            with pytest.raises(RequestRefused, match="more than 1 s"):
                made._chat(message)
        else:
            made._chat(message)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert signal.getsignal(signal.SIGVTALRM) == handler
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


@pytest.mark.parametrize("what", HARMLESS)
def test_what_it_may_not_read_is_nothing(what: str) -> None:
    message = (Message(role="user", content="trigger"),)
    assert prompts(evil(what))._chat(message) == prompts(FINE)._chat(message)


def test_what_could_not_be_stopped_is_not_loaded() -> None:
    with pytest.raises(LoadFailed, match="powers") as failed:
        prompts(evil("{{ 9 ** 9 ** 9 }}")).guard()
    assert failed.value.fault.code == "unsafe_template"
    prompts(FINE).guard()
