"""Embeddings with the real small encoder, pulled once and then cached."""

import base64
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.engines import QUIET, wanted
from genie import catalog, env
from genie.contracts.inference import Sampling, WorkClass
from genie.contracts.model import ModelSpec
from workers.engine.parent import starter as engines
from workers.engine.protocol import EngineEvent, EngineRequest, Finish, LoadedEngine
from workers.files.files import LocalModel, ModelStore

MODEL = "all-minilm:22m"
TEXTS = (
    "A man is eating a piece of bread.",
    "Someone has a bite of a loaf.",
    "The stock market fell by three per cent today.",
    "word " * 200,
    "Ja, das geht auch auf Deutsch!",
)

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return catalog.load().models[MODEL]


@pytest.fixture(scope="module")
def pulled(spec: ModelSpec) -> LocalModel:
    return ModelStore(env.models()).ensure(spec)


@pytest.fixture(scope="module")
def loaded(spec: ModelSpec, pulled: LocalModel) -> Iterator[LoadedEngine]:
    loaded = engines.start(
        wanted(spec, path=pulled.path, slots=4, context=spec.context_max), QUIET
    )
    yield loaded
    loaded.engine.close()


def embed(loaded: LoadedEngine, *texts: str) -> Finish:
    heard: list[EngineEvent] = []
    ended = threading.Event()

    def sink(event: EngineEvent) -> None:
        heard.append(event)
        ended.set()

    request = EngineRequest(
        id="r",
        scope="org",
        work_class=WorkClass.INTERACTIVE,
        sampling=Sampling(),
        deadline_s=60.0,
        inputs=texts,
    )
    loaded.engine.submit(request, sink)
    assert ended.wait(60)
    (end,) = heard
    assert isinstance(end, Finish)
    return end


def vectors(end: Finish) -> list[tuple[float, ...]]:
    assert end.extras is not None
    return [struct.unpack("<384f", base64.b64decode(v)) for v in end.extras.vectors]


def cosine(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Both have length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def plainly(path: Path, text: str) -> tuple[float, ...]:
    """What the model's card says to compute, one text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    normal = torch.nn.functional.normalize(states.mean(dim=0), dim=-1)
    return tuple(float(value) for value in normal)


def test_vectors_are_those_of_transformers(
    loaded: LoadedEngine, pulled: LocalModel
) -> None:
    assert pulled.path is not None
    for text, vector in zip(TEXTS, vectors(embed(loaded, *TEXTS)), strict=True):
        assert cosine(vector, plainly(pulled.path, text)) > 0.9999


def test_like_meanings_are_near(loaded: LoadedEngine) -> None:
    bread, loaf, stocks, *_ = vectors(embed(loaded, *TEXTS))
    assert cosine(bread, loaf) > 0.4 > cosine(bread, stocks)


def test_a_text_over_its_window_is_refused(loaded: LoadedEngine) -> None:
    fault = embed(loaded, "word " * 400).fault
    assert fault is not None
    assert (fault.code, fault.param) == ("context_length_exceeded", "input[0]")


def test_every_file_it_reads_is_in_the_catalog(
    spec: ModelSpec, pulled: LocalModel
) -> None:
    assert pulled.path is not None
    assert {file.name for file in pulled.files} == {file.name for file in spec.files}
    assert all(file.sha256 for file in spec.files)
