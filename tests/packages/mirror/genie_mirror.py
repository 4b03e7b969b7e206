"""An engine that answers with the question's words, backwards."""

import time

import msgspec

from genie.contracts.fleet import EngineFacts, EngineMemory
from genie.fingerprint import fingerprint
from workers.engine.child.backend import Backend, EngineLimits, PreparedPrompt
from workers.engine.child.scheduler import ForwardPass
from workers.engine.protocol import EngineRequest, Load, OnLoadProgress
from workers.engine.registry import RegisteredEngine, VerifiedFiles


class MirrorBackend(Backend):
    """One word a step for every running request."""

    def __init__(self, limits: EngineLimits) -> None:
        super().__init__(limits, time.monotonic)
        self._words: dict[str, list[str]] = {}

    def prepare(self, request: EngineRequest) -> PreparedPrompt:
        """Read the question; how many tokens it has, and the most to answer."""
        asked = request.prompt or request.messages[-1].content
        words = self._words[request.id] = asked.split()[::-1] or ["nothing"]
        return PreparedPrompt(len(words), request.sampling.max_tokens or len(words))

    def advance(self, step: ForwardPass) -> None:
        """The next word of everyone whose question is read."""
        self.scheduler.done(step)
        read = (chunk.sequence for chunk in step.chunks if chunk.completes)
        for sequence in (*step.decodes, *read):
            words, number = self._words[sequence.id], sequence.produced
            word = words[number] if number == 0 else f" {words[number]}"
            self.produce(sequence, word, is_end=number + 1 == len(words))

    def forget(self, request_id: str) -> None:
        """Drop the words of a request that has ended."""
        self._words.pop(request_id, None)


def load(
    load: Load, limits: EngineLimits, files: VerifiedFiles, progress: OnLoadProgress
) -> tuple[Backend, str]:
    """Nothing to load: the backend, and what it is identified by."""
    identity = fingerprint(files(), load.quant, chat_template="", engine="mirror/1")
    return MirrorBackend(limits), identity


FACTS = EngineFacts(
    name="mirror",
    version="1",
    sources=("mirror",),
    devices=("cpu",),
    memory=EngineMemory.NONE,
)
IN_A_CHILD = RegisteredEngine(facts=FACTS, load=load)
IN_THE_WORKER = RegisteredEngine(
    facts=msgspec.structs.replace(
        FACTS, name="mirror_here", sources=("mirror_here",), has_child=False
    ),
    load=load,
)
