"""Embeddings of a tiny random encoder, against transformers' plain forward."""

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from genie.contracts.inference import Fault, FinishReason, Sampling, WorkClass
from genie.contracts.model import Capability, ModelSpec, Quant
from workers.engine.child import main
from workers.engine.child.backend import EngineLimits
from workers.engine.errors import LoadFailed
from workers.engine.protocol import EngineRequest, Finish, Load
from workers.engine.torch import ENGINE, embedding
from workers.engine.torch.embedding import EmbeddingBackend, Encoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
WINDOW = 48


def letters() -> PreTrainedTokenizerFast:
    """A token a letter, framed as BERT frames."""
    tokenizer = Tokenizer(
        models.WordLevel({w: n for n, w in enumerate(WORDS)}, "[UNK]")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(7)
    torch.set_num_threads(1)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    make: Any = AutoModel.from_config
    make(config).save_pretrained(path)
    letters().save_pretrained(path)
    return path


def load(path: Path, **changed: object) -> Load:
    spec = ModelSpec(
        id="tiny-bert",
        family="bert",
        parameters=10_000,
        license="none",
        source=f"path:{path}",
        context_max=WINDOW,
        layers=2,
        kv_heads=4,
        head_dim=8,
        capabilities=(Capability.EMBED,),
    )
    return Load(
        spec=msgspec.structs.replace(spec, **changed),
        quant=Quant(name="f32", dtype="float32", weight_bytes=40_000),
        path=str(path),
        slots=4,
        context=WINDOW,
        waiting=16,
        budget=128,
        device="cpu",
        threads=1,
    )


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    made = embedding.load_encoder(load(folder))
    embedding.self_test(made, "tiny-bert", WINDOW)
    return made


@pytest.fixture
def backend(encoder: Encoder) -> EmbeddingBackend:
    room = EngineLimits(
        model="tiny-bert", slots=4, context=WINDOW, waiting=16, budget=128
    )
    return EmbeddingBackend(room, lambda: 0.0, encoder)


def ask(*inputs: str, name: str = "r", deadline_s: float = 60.0) -> EngineRequest:
    return EngineRequest(
        id=name,
        scope="org",
        work_class=WorkClass.INTERACTIVE,
        sampling=Sampling(),
        deadline_s=deadline_s,
        inputs=inputs,
    )


def ends(backend: EmbeddingBackend) -> dict[str, Finish]:
    """Step to the end; exactly one terminal event for each request."""
    found: dict[str, Finish] = {}
    for _ in range(100):
        for event in backend.step():
            assert isinstance(event, Finish)
            assert event.id not in found
            found[event.id] = event
        if not backend.is_busy:
            return found
    raise AssertionError("the engine did not come to an end")


def fault(finish: Finish) -> Fault:
    assert finish.fault is not None
    assert finish.extras is None
    return finish.fault


def vectors(finish: Finish) -> list[torch.Tensor]:
    assert finish.extras is not None
    raw = [base64.b64decode(one) for one in finish.extras.vectors]
    return [torch.tensor(struct.unpack(f"<{len(r) // 4}f", r)) for r in raw]


def plainly(path: Path, text: str) -> torch.Tensor:
    """Mean of the last states, normalised: what its authors say to compute."""
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(dim=0), dim=-1)


def test_vectors_are_those_of_a_plain_forward_whatever_is_in_the_batch(
    backend: EmbeddingBackend, folder: Path
) -> None:
    texts = ["a", "abcdefgh", "xyz" * 10, "q" * 40, "hello"]
    backend.submit(ask(*texts))
    backend.submit(ask("zz" * 20, name="other"))
    found = ends(backend)
    for text, vector in zip(texts, vectors(found["r"]), strict=True):
        assert float(vector @ plainly(folder, text)) > 0.9999
        assert abs(float(vector.norm()) - 1) < 1e-5
    assert found["r"].usage.prompt_tokens == sum(len(t) + 2 for t in texts)
    assert found["r"].reason is FinishReason.STOP


def test_many_inputs_take_many_steps_and_keep_their_order(
    backend: EmbeddingBackend,
) -> None:
    texts = [WORDS[4 + n % 26] * (1 + n % 40) for n in range(100)]
    backend.submit(ask(*texts))
    backend.submit(ask("ab", name="short"))
    seen = [event.id for event in backend.step()]
    assert seen == []  # 32 of the first one's inputs
    found = ends(backend)
    whole = vectors(found["r"])
    for number in (0, 17, 99):
        backend.submit(ask(texts[number], name="again"))
        (single,) = vectors(ends(backend)["again"])
        assert float(whole[number] @ single) > 0.9999


def test_markers_inside_a_text_stay_text(encoder: Encoder) -> None:
    tokens = encoder.tokens("a[SEP]b")
    assert tokens.count(3) == 1  # only the frame's own


def test_an_input_over_the_window_is_refused_with_its_number(
    backend: EmbeddingBackend,
) -> None:
    backend.submit(ask("fine", "a" * 47))
    said = fault(ends(backend)["r"])
    assert (said.code, said.param) == ("context_length_exceeded", "input[1]")
    assert f"at most {WINDOW}" in said.message


def test_more_vectors_than_a_message_holds_are_refused_with_the_number(
    backend: EmbeddingBackend,
) -> None:
    most = embedding.OUTCOME_BYTES // (32 * 16 // 3 + 4)
    backend.submit(ask(*["a"] * (most + 1)))
    said = fault(ends(backend)["r"])
    assert said.param == "input"
    assert f"at most {most} in one request" in said.message


def test_a_chat_is_refused_with_the_door_to_use(backend: EmbeddingBackend) -> None:
    backend.submit(ask())
    assert "/v1/embeddings" in fault(ends(backend)["r"]).message


def test_a_cancelled_request_ends_within_one_step(backend: EmbeddingBackend) -> None:
    backend.submit(ask(*["abc"] * 90))
    backend.step()
    backend.cancel("r")
    (end,) = backend.step()
    assert isinstance(end, Finish)
    assert end.reason is FinishReason.CANCELLED
    assert end.extras is None
    assert not backend.is_busy


def test_only_the_culprit_of_a_failing_batch_fails(
    backend: EmbeddingBackend, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = encoder.vectors

    def picky(inputs: list[list[int]]) -> torch.Tensor:
        if any(len(one) == 9 for one in inputs):
            raise RuntimeError("odd")
        return plain(inputs)

    monkeypatch.setattr(encoder, "vectors", picky)
    backend.submit(ask("abcdefg", "a", name="bad"))
    backend.submit(ask("abc", name="good"))
    found = ends(backend)
    assert fault(found["bad"]).code == "engine_error"
    assert len(vectors(found["good"])) == 1


def test_figures_tell_what_an_encoder_takes(backend: EmbeddingBackend) -> None:
    stats = backend.stats()
    assert stats.slots == 4
    assert stats.peak_bytes > 0


def test_the_first_token_can_be_the_vector(folder: Path) -> None:
    made = embedding.load_encoder(load(folder, pooling="cls"))
    ids = made.tokens("abc")
    model: Any = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        first = model(input_ids=torch.tensor([ids])).last_hidden_state[0, 0]
    expected = torch.nn.functional.normalize(first, dim=-1)
    assert float(made.vectors([ids])[0] @ expected) > 0.9999


def test_a_pooling_it_does_not_know_is_refused(folder: Path) -> None:
    with pytest.raises(LoadFailed) as refused:
        embedding.load_encoder(load(folder, pooling="max"))
    assert refused.value.fault.code == "unsupported_pooling"


def test_a_model_that_reads_one_way_is_refused(tiny: Callable[..., Any]) -> None:
    path = tiny("llama").path
    made = embedding.load_encoder(load(path))
    with pytest.raises(LoadFailed) as refused:
        embedding.self_test(made, "tiny-llama", WINDOW)
    assert refused.value.fault.code == "unsupported_architecture"


def test_a_whole_load_reports_progress_and_an_identity(folder: Path) -> None:
    room = EngineLimits(
        model="tiny-bert", slots=4, context=WINDOW, waiting=16, budget=128
    )
    shares: list[float] = []
    wanted = load(folder)
    loaded, identity = ENGINE.load(
        wanted,
        room,
        main.verified(wanted),
        lambda share, _: shares.append(share),
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert identity.startswith("gf1-")
    loaded.submit(ask("abc"))
    assert loaded.is_busy


@given(st.lists(st.integers(1, 512), max_size=80))
def test_batches_hold_every_input_once_within_the_bound(lengths: list[int]) -> None:
    asked: list[Any] = [(None, number) for number in range(len(lengths))]
    made = list(embedding.batches(asked, lambda one: lengths[one[1]]))
    assert sorted(n for batch in made for _, n in batch) == list(range(len(lengths)))
    for batch in made:
        widest = max(lengths[n] for _, n in batch)
        assert widest * len(batch) <= embedding.BATCH_TOKENS
