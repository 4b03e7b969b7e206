"""The defaults that a persona adds to a request (pure)."""

from collections.abc import Mapping

import msgspec

from genie.catalog import Persona
from genie.contracts.inference import Message, Sampling


def sampling(given: Mapping[str, object], persona: Persona | None) -> Sampling:
    """Sampling as ``given``, with the persona's defaults for the rest."""
    defaults: dict[str, object] = {}
    if persona is not None:
        defaults = {
            "max_tokens": persona.max_tokens,
            "temperature": persona.temperature,
        }
    return msgspec.convert({**defaults, **given}, Sampling)


def messages(
    given: tuple[Message, ...], persona: Persona | None
) -> tuple[Message, ...]:
    """The messages; the persona's system message comes first if they have none."""
    has_system = any(message.role == "system" for message in given)
    if not given or persona is None or not persona.system_prompt or has_system:
        return given
    return (Message(role="system", content=persona.system_prompt), *given)
