"""What clients may send to be turned into vectors."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cloud_app.web.shape import (
    NAMED,
    Metadata,
    OneText,
    Shape,
    unsupported_tokens,
    wrong,
)

MAX_INPUTS = 256
"""Texts of one embeddings request."""


def _texts(value: object) -> object:
    """The input as a list of texts; token ids are refused with the way out."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong("must be a text or an array of texts")
    if any(isinstance(one, int | list) for one in value):
        raise unsupported_tokens()
    if len(value) > MAX_INPUTS:
        raise wrong(
            f"has {len(value)} texts; send at most {MAX_INPUTS} in one request, with "
            f"LangChain by chunk_size={MAX_INPUTS}"
        )
    return value


Texts = Annotated[list[OneText], Field(min_length=1, max_length=MAX_INPUTS)]


class EmbeddingRequest(Shape):
    """The body of an embeddings request."""

    model_config = NAMED

    input: Annotated[
        list[OneText],
        Field(min_length=1, max_length=MAX_INPUTS),
        BeforeValidator(_texts, json_schema_input_type=OneText | Texts),
    ] = Field(
        description="A text or an array of texts.", examples=[["One text.", "Two."]]
    )
    model: str | None = Field(
        None, description="A catalog id or a persona.", examples=["embed"]
    )
    persona: str | None = Field(None, examples=["embed"])
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="Only the model's own.")
    deadline_s: float | None = Field(
        None, gt=0, le=86_400, description="Seconds.", examples=[60.0]
    )
    metadata: Metadata | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _named(self) -> "EmbeddingRequest":
        if not (self.model or self.persona):
            raise wrong("name a model or a persona; see /v1/models", "model")
        return self

    def labels(self) -> dict[str, str]:
        """The caller's own labels: ``metadata``, and ``user`` as one of them."""
        user = {"user": self.user} if self.user else {}
        return {**user, **(self.metadata or {})}
