"""Answers that must have a shape: which tokens may come next, by llguidance."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from workers.engine.errors import refused
from workers.engine.protocol import EngineRequest
from workers.engine.torch import tools

WHITESPACE = r"\n? {0,16}"
"""White space between two JSON tokens: bounded, or an answer could be all of it."""

SCHEMA_PARAM = "response_format.json_schema.schema"
SCHEMA_BYTES_MAX = 100_000


@dataclass(slots=True)
class GrammarGuide:
    """One answer's place in its grammar."""

    matcher: LLMatcher
    vocabulary: int

    def narrow(self, scores: Tensor) -> Tensor:
        """Rule out the tokens the grammar does not allow next."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self.vocabulary]
        mask = torch.from_numpy(allowed == 0).to(scores.device)
        return scores.masked_fill(mask, -torch.inf)

    def take(self, token: int) -> None:
        """The token was chosen; raises ValueError if the grammar cannot go on."""
        if not self.matcher.consume_token(token):
            raise ValueError(f"the grammar stopped: {self.matcher.get_error()[:200]}")

    @property
    def is_complete(self) -> bool:
        """True when nothing but the end can follow."""
        return bool(self.matcher.is_stopped())


class Grammars:
    """Makes guides for one model; reads its vocabulary once, beside the serving.

    ``ends`` are the token ids that end an answer.
    """

    def __init__(self, tokenizer: Any, *, vocabulary: int, ends: Iterable[int]) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: LLTokenizer | None = None
        self._why_not = ""

        def read() -> None:
            try:
                self._tokenizer = llguidance.hf.from_tokenizer(
                    tokenizer, n_vocab=vocabulary, eos_token=sorted(ends)
                )
            except ValueError as error:  # such as more tokens than the model has
                self._why_not = str(error)

        # About a second for 50,000 tokens: the first answers need not wait for it.
        self._reading = threading.Thread(target=read, name="grammars", daemon=True)
        self._reading.start()

    def of_schema(self, schema: str) -> GrammarGuide:
        """A guide to JSON of this schema; raises RequestRefused if it has none."""
        if len(schema) > SCHEMA_BYTES_MAX:
            message = f"the schema is over {SCHEMA_BYTES_MAX} characters; shorten it"
            raise refused("invalid_request", message, SCHEMA_PARAM)
        try:
            grammar = LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_pattern": WHITESPACE}
            )
        except ValueError as error:
            message = f"the schema cannot be read: {error}"
            raise refused("invalid_request", message[:500], SCHEMA_PARAM) from error
        return self.guide(grammar, SCHEMA_PARAM)

    def guide(self, grammar: str, param: str) -> GrammarGuide:
        """A guide to a grammar; ``param`` is the field that it was made of."""
        self._reading.join()
        if self._tokenizer is None:
            message = (
                f"this model's vocabulary cannot be held to a shape: {self._why_not}"
            )
            raise refused("invalid_request", message, param)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            message = (
                f"this schema cannot be followed here: {_first_line(matcher)}; see "
                "the JSON Schema subset in the HTTP reference"
            )
            raise refused("invalid_request", message[:500], param)
        return GrammarGuide(matcher, self._vocabulary)


def guide_of(
    request: EngineRequest,
    grammars: Grammars | None,
    tool_format: str | None,
    marks: Mapping[str, int],
) -> GrammarGuide | None:
    """The guide a request asks for, if any; raises RequestRefused without one."""
    forced = None
    if tool_format is not None:
        forced = tools.forced_grammar(request, tool_format, marks)
    if forced is not None and grammars is not None:
        return grammars.guide(LLMatcher.grammar_from_lark(forced), "tools")
    if request.json_schema is None:
        return None
    if grammars is None:
        message = (
            "this model cannot be held to a JSON schema; leave response_format out"
        )
        raise refused("invalid_request", message, "response_format")
    return grammars.of_schema(request.json_schema)


def _first_line(matcher: LLMatcher) -> str:
    lines = matcher.get_error().strip().splitlines()
    return lines[0].rstrip(":") if lines else "unknown"
