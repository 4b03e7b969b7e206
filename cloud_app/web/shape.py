"""What all request bodies have in common: strict types, and how a mistake is said."""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


def wrong(message: str, at: str = "", kind: str = "value") -> PydanticCustomError:
    """A mistake in a body; ``at`` is the rest of the path below the field."""
    return PydanticCustomError(kind, "{text}", {"text": message, "at": at})


def unsupported(what: str, at: str = "") -> PydanticCustomError:
    """Something meaningful that this release cannot do; never ignored in silence."""
    return wrong(f"{what} is not supported yet; leave it out", at, "unsupported")


class Shape(BaseModel):
    """Base of every request body: strict types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
