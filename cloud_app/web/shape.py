"""What all request bodies have in common: strict types, and how a mistake is said."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


def wrong(message: str, at: str = "", kind: str = "value") -> PydanticCustomError:
    """A mistake in a body; ``at`` is the rest of the path below the field."""
    return PydanticCustomError(kind, "{text}", {"text": message, "at": at})


def unsupported(what: str, at: str = "") -> PydanticCustomError:
    """Something meaningful that this release cannot do; never ignored in silence."""
    return wrong(f"{what} is not supported yet; leave it out", at, "unsupported")


def unsupported_tokens() -> PydanticCustomError:
    """The refusal of token ids: another tokenizer made them than the model's."""
    return wrong(
        "must be texts; token ids are of another model's tokenizer. With LangChain "
        "set check_embedding_ctx_length=False, with other clients turn off their own "
        "tokenising",
        kind="unsupported",
    )


OneText = Annotated[str, Field(min_length=1)]
Metadata = Annotated[dict[str, str], Field(max_length=16)]
Name = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""What is looked up, not read: no column of PostgreSQL takes a NUL."""


class Shape(BaseModel):
    """Base of every request body: strict types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def _named(schema: dict[str, Any]) -> None:
    """Say in the API's description what `_named` of the shapes checks."""
    text = {"type": "string", "minLength": 1}
    schema["anyOf"] = [
        {"required": [name], "properties": {name: text}}
        for name in ("model", "persona")
    ]


NAMED = ConfigDict(json_schema_extra=_named)
