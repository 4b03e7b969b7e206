"""The transformers engine; nothing else imports torch.

This file itself is light: the worker reads it to know the engine, a child calls `load`.
"""

import gc
from importlib.util import find_spec
from typing import TYPE_CHECKING

from genie.contracts.fleet import EngineFacts, LoadStage
from genie.contracts.model import Capability
from genie.engines import FILE_SOURCES
from genie.fingerprint import fingerprint
from workers.engine.protocol import Load, OnLoadProgress
from workers.engine.registry import RegisteredEngine, VerifiedFiles, release_of

if TYPE_CHECKING:
    from workers.engine.child.backend import Backend, EngineLimits

CPU_BUDGET = 128
CUDA_BUDGET = 2048
"""Tokens of one step: as many as delay the running requests unnoticeably."""

PLAIN_DTYPES = ("float32", "bfloat16", "float16")
PACKED_DTYPES = ("int8", "nf4")
"""Formats of bitsandbytes: weights of 8 and 4 bits, computed with in bfloat16."""


def load(
    load: Load, limits: "EngineLimits", files: VerifiedFiles, progress: OnLoadProgress
) -> "tuple[Backend, str]":
    """Load a model that writes, or one that embeds; raises LoadFailed."""
    from workers.engine.torch import embedding, loading, packed

    # What was imported stays: a step that waits for the search through it for garbage
    # is a tenth of a second late.
    gc.freeze()
    loading.prepare(load.threads)
    sources = files()
    embeds = Capability.EMBED in load.spec.capabilities
    backend, template = (embedding if embeds else packed).build(load, limits, progress)
    progress(1.0, LoadStage.TESTING)
    engine = f"transformers/{ENGINE.facts.version}"
    identity = fingerprint(sources, load.quant, chat_template=template, engine=engine)
    return backend, identity


def warm_up() -> None:
    """Import torch and transformers: most of the time a load takes."""
    from workers.engine.torch import packed  # noqa: F401 - importing it is the work


ENGINE = RegisteredEngine(
    facts=EngineFacts(
        name="transformers",
        version=release_of("transformers"),
        sources=FILE_SOURCES,
        dtypes=PLAIN_DTYPES + (PACKED_DTYPES if find_spec("bitsandbytes") else ()),
    ),
    load=load,
    warm_up=warm_up,
    step_tokens={"cpu": CPU_BUDGET, "cuda": CUDA_BUDGET},
)
