"""From messages to tokens and from tokens back to text, by the model's tokenizer.

Only the chat template may write control tokens: the same characters inside a
message are encoded as ordinary text, so a prompt cannot pose as another role.
"""

from collections.abc import Callable, Iterable
from functools import cache
from itertools import groupby
from typing import Any, cast

from jinja2 import TemplateError
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from genie import toolcalls
from genie.contracts.inference import Logprob, Message, Tool, ToolCall
from workers.engine.errors import RequestRefused, load_failed, refused
from workers.engine.protocol import EngineRequest
from workers.engine.torch import rendering
from workers.engine.torch import tools as toolbox

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
"""Templates paste the role between control tokens, so it cannot be free text."""

PART = "\ufffd"
"""What decoders show for bytes that are no whole character."""

LEAST_LOGPROB = -9999.0
"""Stands for impossible, as in OpenAI's API: JSON has no infinity."""


def raw(name: str) -> tuple[int, ...]:
    """The bytes of a token, by its name in a vocabulary of bytes; else none.

    >>> raw("<0xE4>"), raw("\u00e4\u00bd")
    ((228,), (228, 189))
    """
    if len(name) == BYTE_NAME_LENGTH and name.startswith("<0x"):
        return (int(name[3:5], 16),)
    known = _byte_names()
    return tuple(known[one] for one in name) if all(o in known for o in name) else ()


BYTE_NAME_LENGTH = len("<0xE4>")


@cache
def _byte_names() -> dict[str, int]:
    """How byte-level vocabularies write each byte."""
    names = bytes_to_unicode()  # type: ignore[no-untyped-call]
    return {name: byte for byte, name in names.items()}


QUESTION = Message(role="user", content="a")
"""What a conversation begins with when a template is checked."""


def _writable(
    controls: Iterable[tuple[int, str]], chat: Callable[[str], list[int]]
) -> str | None:
    """The first of the control tokens that a text in a prompt can write, if any."""
    plain = chat("a")
    return next(
        (
            control
            for token, control in controls
            if chat(f"a{control}").count(token) != plain.count(token)
        ),
        None,
    )


class PromptRenderer:
    """One model's chat template and tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tool_format: str | None = None
    ) -> None:
        rendering.install()
        self.tokenizer = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self.tool_format = tool_format
        self.marks = self._marks()
        self._shown = {token: text for text, token in self.marks.items()}

    @property
    def template(self) -> str:
        """The chat template, empty if the model has none; of several, all of them."""
        return "\n".join(self._templates())

    def _templates(self) -> list[str]:
        found: str | dict[str, str] | None = self.tokenizer.chat_template
        if isinstance(found, dict):  # one for tools beside the default one
            return [found[name] for name in sorted(found)]
        return [found] if found else []

    def tokens(self, request: EngineRequest) -> list[int]:
        """The prompt's token ids; raises RequestRefused for what has no tokens here."""
        if request.prompt is not None:
            return self.plain(request.prompt)
        if not request.messages:
            raise refused("invalid_request", "messages is empty; say something")
        return self._chat(request.messages, request.tools)

    def stream(self) -> DecodeStream:
        """A fresh incremental decoder for one answer."""
        return DecodeStream(skip_special_tokens=True)

    def text(self, stream: DecodeStream, token: int) -> str:
        """Text that became whole with ``token``; empty inside a character."""
        if token in self._shown:
            return self._shown[token]
        return stream.step(self._backend, token) or ""

    def shown(self, token: int) -> str:
        """One token by itself, control tokens too: what a list of rivals shows."""
        # Twice, less once: some decoders take the space off what a text begins with.
        twice, once = (self._with_controls([token] * n) for n in (2, 1))
        return twice[len(once) :]

    def logprob(self, token: int, logprob: float) -> Logprob:
        """One token with its log probability, as an answer lists it."""
        shown = self.shown(token)
        is_part = PART in shown
        return Logprob(
            token=shown,
            # float32 holds six digits; what is less than the least becomes the least.
            logprob=round(max(logprob, LEAST_LOGPROB), 6),
            raw=raw(self._backend.id_to_token(token) or "") if is_part else (),
        )

    def _with_controls(self, tokens: list[int]) -> str:
        return str(self._backend.decode(tokens, skip_special_tokens=False))

    def guard(self) -> None:
        """Check that no prompt can write control tokens, and that calls of tools are
        written as they are read; raises LoadFailed."""
        for template in self._templates():
            rendering.check(template)
        if self.template:
            self._guard_messages()
        if self.tool_format is not None:
            self._guard_calls(self.tool_format)
            self._guard_tools()

    def _guard_messages(self) -> None:
        tokenizer = self.tokenizer
        found = _writable(
            zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True),
            lambda text: self._chat((Message(role="user", content=text),)),
        )
        if found is not None:
            message = (
                f"this tokenizer takes {found!r} inside a message for a control "
                "token; the model cannot be served safely"
            )
            raise load_failed("unsafe_tokenizer", message)

    def _guard_tools(self) -> None:
        found = _writable(
            self._controls(),
            lambda text: self._chat((QUESTION,), (Tool(name="f", description=text),)),
        )
        if found is not None:
            message = f"this model's template lets a tool write {found!r}"
            raise load_failed("unsafe_tokenizer", message)

    def _guard_calls(self, format: str) -> None:
        call = ToolCall(id="abcdefghi", name="f", arguments='{"x": "y"}')
        turns = (
            QUESTION,
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", content="b", tool_call_id=call.id, name="f"),
        )
        why = "its template writes calls of tools in another way"
        try:
            tokens = self._chat(turns, (Tool(name="f", description="a"),))
        except RequestRefused as refusal:
            tokens, why = [], refusal.fault.message
        for text in self._between_controls(tokens):
            _, calls = toolcalls.read(format, "", text)
            if [(one.name, one.arguments) for one in calls] == [("f", '{"x": "y"}')]:
                return
        message = (
            f"this model's tool_format is {format} in the catalog, and {why}; correct "
            "it, or leave it and the capability tools out"
        )
        raise load_failed("wrong_tool_format", message)

    def plain(self, text: str, **options: bool) -> list[int]:
        """Token ids of plain text; control tokens in it stay ordinary text."""
        encoded = self.tokenizer(text, split_special_tokens=True, **options)
        return [int(token) for token in encoded["input_ids"]]

    def continued(self, text: str) -> list[int]:
        """Token ids of an answer's own text, to go on after it."""
        return self.plain(text, add_special_tokens=False) if text else []

    def _between_controls(self, tokens: list[int]) -> list[str]:
        """The texts between control tokens; marks of calls belong to the text."""
        borders = {token for token, _ in self._controls()} - set(self.marks.values())
        grouped = groupby(tokens, key=lambda token: token in borders)
        return [
            self._with_controls(list(group))
            for is_border, group in grouped
            if not is_border
        ]

    def _controls(self) -> list[tuple[int, str]]:
        added = self.tokenizer.added_tokens_decoder.items()
        return [(int(token), str(one)) for token, one in added if one.special]

    def _marks(self) -> dict[str, int]:
        """The marks of tool calls that are control tokens here: decoding hides them."""
        if self.tool_format is None:
            return {}
        marks = (toolcalls.OPEN, toolcalls.CLOSE, toolcalls.MISTRAL_MARK)
        return {text: token for token, text in self._controls() if text in marks}

    def _chat(
        self, messages: tuple[Message, ...], tools: tuple[Tool, ...] = ()
    ) -> list[int]:
        if not self.template:
            message = "this model has no chat template; send prompt, not messages"
            raise refused("no_chat_template", message, "messages")
        for index, one in enumerate(messages):
            if one.role not in ROLES:
                param = f"messages[{index}].role"
                known = ", ".join(sorted(ROLES))
                message = f"{param} is {one.role[:40]!r}; it must be one of {known}"
                raise refused("invalid_request", message, param)
        if tools and (self.tool_format is None or "tools" not in self.template):
            message = (
                "this model cannot call tools: how its family writes calls is not "
                f"known here ({', '.join(toolcalls.FORMATS)} are); name one that can, "
                "with the capability tools at /v1/models"
            )
            raise refused("invalid_request", message, "tools")
        return self._rendered(messages, tools)

    def _rendered(
        self, messages: tuple[Message, ...], tools: tuple[Tool, ...]
    ) -> list[int]:
        turns = toolbox.turns(messages, self.tool_format, template=self.template)
        offered = toolbox.tool_schemas(tools)
        controls = [text for _, text in self._controls()]
        toolbox.check_keys(turns, controls, "messages")
        toolbox.check_keys(offered, controls, "tools")
        try:
            encoded = self.tokenizer.apply_chat_template(
                turns,
                tools=cast("list[dict[str, Any] | Callable[..., Any]]", offered)
                or None,
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                return_dict=False,
                **toolbox.variables(offered, self.template),
            )
        except TemplateError as error:
            message = f"this model's chat template refuses the messages: {error}"
            raise refused("invalid_request", message[:300], "messages") from error
        # Typed for every way to call it; called like this it gives one list of ids.
        return cast("list[int]", encoded)
