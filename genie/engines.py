"""Facts about engines that the catalog needs before a worker reports (pure)."""

from collections.abc import Iterable

from genie.contracts.fleet import EngineFacts, EngineMemory

FILE_SOURCES = ("hf", "path", "pypi")
"""Kinds of source whose files a worker brings to its disk, for any engine."""

SHIPPED = {
    facts.name: facts
    for facts in (
        EngineFacts(name="transformers", sources=FILE_SOURCES),
        EngineFacts(
            name="echo",
            sources=("echo",),
            devices=("cpu",),
            memory=EngineMemory.NONE,
        ),
    )
}
"""The engines of every release: a worker of the one before only names them."""


def assumed(name: str) -> EngineFacts:
    """The facts of an engine that no worker has described.

    >>> assumed("echo").memory, assumed("tiny").sources
    (<EngineMemory.NONE: 'none'>, ('hf', 'path', 'pypi', 'tiny'))
    """
    known = SHIPPED.get(name)
    return known or EngineFacts(name=name, sources=(*FILE_SOURCES, name))


def described(
    names: Iterable[str], reported: Iterable[EngineFacts]
) -> tuple[EngineFacts, ...]:
    """The facts of every engine a worker named, its own word before ours.

    >>> [one.name for one in described(["echo"], [EngineFacts(name="tiny")])]
    ['tiny', 'echo']
    """
    said = {facts.name: facts for facts in reported}
    return (*said.values(), *(assumed(name) for name in names if name not in said))
