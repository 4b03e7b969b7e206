"""What all request bodies have in common: strict types, and how a mistake is said."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


def wrong(message: str, at: str = "", kind: str = "value") -> PydanticCustomError:
    """A mistake in a body; ``at`` is the rest of the path below the field."""
    return PydanticCustomError(kind, "{text}", {"text": message, "at": at})


def unsupported(what: str, at: str = "") -> PydanticCustomError:
    """Something meaningful that this release cannot do; never ignored in silence."""
    return wrong(f"{what} is not supported yet; leave it out", at, "unsupported")


Name = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""What is looked up, not read: no column of PostgreSQL takes a NUL."""


class Shape(BaseModel):
    """Base of every request body: strict types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
