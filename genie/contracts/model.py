"""What the catalog says of a model: enough to place it and to load it."""

from enum import StrEnum

from genie.contracts.base import Contract, Count


class Capability(StrEnum):
    """What a request may need of a model."""

    CHAT = "chat"
    TOOLS = "tools"
    JSON = "json"
    EMBED = "embed"
    VISION = "vision"


class Quant(Contract, frozen=True, kw_only=True):
    """One weight format of a model.

    ``weight_bytes`` is what the weights take in memory; ``dtype`` is the torch name.
    """

    name: str
    dtype: str
    weight_bytes: Count
    devices: tuple[str, ...] = ("cuda", "cpu")


class ModelFile(Contract, frozen=True, kw_only=True):
    """One file of a model; ``sha256`` is None until a first pull recorded it."""

    name: str
    sha256: str | None = None
    size_bytes: Count | None = None


class ModelSpec(Contract, frozen=True, kw_only=True):
    """One open-weights model of the catalog.

    ``source`` is ``hf:repo@revision``, ``path:/dir``, ``pypi:package==version#file``
    (a file, or a folder if it ends with ``/``)
    or of the engine's own kind, without files (``echo:?slots=8``).
    """

    id: str
    family: str
    parameters: Count
    license: str
    source: str
    context_max: Count
    layers: Count
    kv_heads: Count
    head_dim: Count
    capabilities: tuple[Capability, ...] = (Capability.CHAT,)
    quants: tuple[Quant, ...] = ()
    files: tuple[ModelFile, ...] = ()
    engine: str = "transformers"
    enabled: bool = True
    pooling: str = "mean"
    """How an embedding model's token states become one vector: mean or cls."""

    tool_format: str | None = None
    """How the model writes tool calls: hermes, llama3 or mistral; None: not known."""
