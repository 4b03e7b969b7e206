"""What a question looks like on the wire."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from genie.contracts.inference import Message
from genie.errors import BadRequest

DEFAULT_PERSONA = "chat"
"""Who answers when a question names neither a persona nor a model."""


class AskOptions(TypedDict, total=False):
    """How to answer; each is optional."""

    persona: str | None
    """Kind of work, e.g. ``review``: the smallest model that can do it is chosen."""
    model: str | None
    """This very model (``qwen3:14b``) or a tier (``lite … heavy``)."""
    system: str | None
    """System message, put before everything else."""
    messages: Sequence[Message | Mapping[str, object]] | None
    """Earlier turns, ``{"role": …, "content": …}``; the prompt comes after them."""
    tools: Sequence[Mapping[str, object]] | None
    """Functions the model may call, as OpenAI writes them."""
    tool_choice: str | Mapping[str, object] | None
    """``auto``, ``none``, ``required``, or the one to call."""
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    """The same seed and question give the same answer."""
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[int, float] | None
    """By token id, from -100 to 100."""
    ignore_eos: bool | None
    min_tokens: int | None
    """Neither the end nor a stop text comes before so many."""
    n: int | None
    """How many answers, at most 8: `Result.alternatives`. A stream gives one."""
    logprobs: int | None
    """Tell how likely each token was, and so many rivals: `Result.logprobs`."""
    timeout: float | None
    """Seconds the whole job may take; what the cloud allows unless given."""
    label: str | None
    """A name for jobs that belong together, at most 200 characters; see `jobs`."""
    metadata: Mapping[str, str] | None
    """Your own labels, kept with the job."""
    idempotency_key: str | None
    """The same key and question give the same job; made for you when absent."""


def chat_body(
    prompt: str | None, options: AskOptions, *, mode: str
) -> dict[str, object]:
    """The JSON of ``POST /v1/chat/completions``, with only what was given.

    >>> chat_body("hi", {"persona": "review", "max_tokens": 8}, mode="sync")["messages"]
    [{'role': 'user', 'content': 'hi'}]

    Raises TypeError for an option that does not exist and `BadRequest` without text.
    """
    check(options, AskOptions)
    chat: dict[str, object] = {
        "messages": conversation_messages(prompt, options),
        "mode": mode,
    }
    chat.update(_target(options))
    chat.update(_numbers(options, mode))
    if (metadata := options.get("metadata")) is not None:
        chat["metadata"] = dict(metadata)
    if tools := options.get("tools"):
        chat["tools"] = [dict(tool) for tool in tools]
    if (choice := options.get("tool_choice")) is not None:
        chat["tool_choice"] = choice
    if mode == "stream":
        chat["stream_options"] = {"include_usage": True}
    if (stop := options.get("stop")) is not None:
        chat["stop"] = [stop] if isinstance(stop, str) else list(stop)
    return chat


def check(given: Mapping[str, object], kind: type) -> None:
    """Raise TypeError naming the first keyword that the TypedDict ``kind`` lacks."""
    known = sorted(kind.__annotations__)
    for name in given:
        if name not in known:
            raise TypeError(f"there is no {name!r}; there are: {', '.join(known)}")


def conversation_messages(
    prompt: str | None, options: AskOptions
) -> list[dict[str, object]]:
    """System message, earlier turns and the prompt, in this order."""
    listed: list[dict[str, object]] = []
    if system := options.get("system"):
        listed.append({"role": "system", "content": system})
    listed.extend(_turn(message) for message in options.get("messages") or ())
    if prompt:
        listed.append({"role": "user", "content": prompt})
    if all(turn["role"] in ("system", "developer") for turn in listed):
        raise BadRequest(
            "there is nothing to answer; give a prompt or a user message",
            param="messages",
        )
    return listed


def _turn(message: Message | Mapping[str, object]) -> dict[str, object]:
    if not isinstance(message, Message):
        return dict(message)
    named = {"name": message.name} if message.name else {}
    return {"role": message.role, "content": message.content, **named}


PLAIN = (
    *("max_tokens", "min_tokens", "ignore_eos", "n", "seed", "label"),
    *("temperature", "top_p", "top_k", "min_p"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
"""Options that are fields of the same name."""


def _numbers(options: AskOptions, mode: str) -> dict[str, object]:
    given: Mapping[str, object] = {**options}
    numbers = {name: given[name] for name in PLAIN if given.get(name) is not None}
    if mode == "stream" and numbers.get("n", 1) != 1:
        raise TypeError("a stream gives one answer; use ask or submit for n of them")
    if (bias := options.get("logit_bias")) is not None:
        numbers["logit_bias"] = {str(token): value for token, value in bias.items()}
    if (rivals := options.get("logprobs")) is not None:
        numbers |= {"logprobs": True, "top_logprobs": rivals}
    if (timeout := options.get("timeout")) is not None:
        numbers["deadline_s"] = timeout
    return numbers


def _target(options: AskOptions) -> dict[str, str]:
    persona, model = options.get("persona"), options.get("model")
    if model is None:
        return {"persona": persona or DEFAULT_PERSONA}
    return {"model": model, "persona": persona} if persona else {"model": model}
