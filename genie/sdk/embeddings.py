"""Vectors as Python numbers, and where they came from."""

import base64
import sys
from array import array
from dataclasses import dataclass

from genie.api_types import EmbeddingsAnswer
from genie.contracts.inference import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """One vector of length 1 for each text, in the order the texts came.

    ``substituted`` is the model that was wanted when a smaller one had to do it.
    """

    vectors: tuple[tuple[float, ...], ...]
    model: str
    usage: Usage
    fingerprint: str | None = None
    substituted: str | None = None


def embeddings(answer: EmbeddingsAnswer) -> Embeddings:
    """What the cloud said, read."""
    ordered = sorted(answer.data, key=lambda one: one.index)
    return Embeddings(
        vectors=tuple(vector(one.embedding) for one in ordered),
        model=answer.model,
        usage=Usage(prompt_tokens=answer.usage.prompt_tokens),
        fingerprint=answer.system_fingerprint,
        substituted=answer.model_substituted,
    )


def vector(packed: str) -> tuple[float, ...]:
    """A vector as numbers, from little-endian float32 in base64.

    >>> vector("AACAPwAAAMA=")
    (1.0, -2.0)
    """
    values = array("f", base64.b64decode(packed))
    if sys.byteorder == "big":
        values.byteswap()
    return tuple(values)
