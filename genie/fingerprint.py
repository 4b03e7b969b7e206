"""The identity of served weights: same fingerprint, same answers.

"The same model at the same quant on the same engine" is equality of fingerprints,
everywhere: placement, overflow, stored scores.
"""

import hashlib
from collections.abc import Iterable

from genie.contracts.model import ModelFile, Quant


def fingerprint(
    files: Iterable[ModelFile], quant: Quant, *, chat_template: str, engine: str
) -> str:
    """Digest of file digests, quant, dtype, chat template and engine.

    ``engine`` is ``name/major.minor``. Raises ValueError when a file has no digest
    yet: a fingerprint is measured, never guessed.

    >>> quant = Quant(name="f32", dtype="float32", weight_bytes=1)
    >>> file = ModelFile(name="model.safetensors", sha256="ab" * 32)
    >>> fingerprint([file], quant, chat_template="", engine="transformers/5.23")[:3]
    'gf1'
    """
    lines = [f"quant {quant.name} {quant.dtype}", f"engine {engine}"]
    lines.append(f"template {hashlib.sha256(chat_template.encode()).hexdigest()}")
    for file in sorted(files, key=lambda file: file.name):
        if file.sha256 is None:
            raise ValueError(f"file {file.name} has no sha256 yet; pull it first")
        lines.append(f"file {file.name} {file.sha256}")
    return "gf1-" + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
