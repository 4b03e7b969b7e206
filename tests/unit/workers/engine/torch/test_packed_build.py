"""What is not sound is not served, and says so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures import tiny as tiny_models
from genie.contracts.fleet import LoadStage
from genie.contracts.model import ModelFile
from workers.engine.child import main
from workers.engine.child.backend import EngineLimits
from workers.engine.errors import LoadFailed
from workers.engine.torch import ENGINE
from workers.engine.torch.packed import ModelRunner

Make = Callable[..., Any]
ROOM = EngineLimits(model="tiny", slots=2, context=64, waiting=4, budget=16)


@pytest.fixture
def copy(tiny: Make, tmp_path: Path) -> Any:
    """A tiny model that a test may damage."""
    model = tiny("llama")
    target = tmp_path / "model"
    shutil.copytree(model.path, target)
    return type(model)(target)


def load(tiny: Any, **said: object) -> tuple[Any, str]:
    request = msgspec.structs.replace(tiny.load(slots=2, context=64), **said)
    heard: list[tuple[float, LoadStage]] = []
    loaded = ENGINE.load(
        request, ROOM, main.verified(request), lambda *said: heard.append(said)
    )
    assert heard == sorted(heard, key=lambda said: said[0])
    assert [stage for _, stage in heard[:2]] == [LoadStage.READING, LoadStage.TESTING]
    return loaded


def fault_of(tiny: Any, **said: object) -> Any:
    with pytest.raises(LoadFailed) as caught:
        load(tiny, **said)
    return caught.value.fault


def change_weights(
    tiny: Any, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    path = tiny.path / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_sound_model_loads_and_its_identity_is_stable(copy: Any) -> None:
    _, first = load(copy)
    _, second = load(copy)
    assert first == second


def test_other_weights_are_another_identity(copy: Any) -> None:
    _, first = load(copy)
    change_weights(copy, lambda weights: weights["model.norm.weight"].mul_(1.01))
    _, second = load(copy)
    assert first != second


def test_missing_layers_are_not_filled_with_random_weights(copy: Any) -> None:
    change_weights(
        copy, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight")
    )
    fault = fault_of(copy)
    assert fault.code == "incomplete_weights"
    assert "model.layers.1.mlp.up_proj.weight" in fault.message


def test_weights_that_are_not_finite_are_refused(copy: Any) -> None:
    change_weights(copy, lambda weights: weights["model.norm.weight"].fill_(torch.nan))
    assert fault_of(copy).code == "bad_weights"


def test_a_file_with_another_digest_is_refused_by_name(copy: Any) -> None:
    wanted = ModelFile(name="model.safetensors", sha256="0" * 64)
    fault = fault_of(copy, spec=msgspec.structs.replace(copy.spec(), files=(wanted,)))
    assert fault.code == "corrupt"
    assert "model.safetensors" in fault.message
    assert "0" * 64 in fault.message
    assert "genie models rm tiny" in fault.message


def test_a_dtype_this_engine_cannot_compute_in_is_refused(copy: Any) -> None:
    quant = msgspec.structs.replace(copy.quant(), dtype="fp8")
    fault = fault_of(copy, quant=quant)
    assert fault.code == "unsupported_quant"
    assert "cannot compute in fp8" in fault.message


def test_an_architecture_without_the_attention_interface_is_refused(
    copy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "_supports_attention_backend", False)
    assert fault_of(copy).code == "unsupported_architecture"


def test_a_kernel_that_disagrees_fails_the_self_test(
    copy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ModelRunner.forward

    def wrong(*args: Any) -> torch.Tensor:
        return -whole(*args)

    monkeypatch.setattr(ModelRunner, "forward", wrong)
    assert fault_of(copy).code == "self_test_failed"


@pytest.mark.parametrize(
    ("kind", "shape", "named"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "conv layers"),
        (
            "llama4_text",
            {"layer_types": ["chunked_attention"] * 2, "attention_chunk_size": 60},
            "chunked_attention layers",
        ),
        (
            "qwen2_moe",
            {
                "sliding_window": 60,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention"] * 2,
            },
            "sliding_attention layers",
        ),
        ("nemotron", {}, "cannot reach"),
    ],
)
def test_layers_that_the_engine_would_compute_wrongly_are_refused(
    tiny: Make, tmp_path: Path, kind: str, shape: dict[str, object], named: str
) -> None:
    odd = type(tiny())(tiny_models.make(kind, tmp_path / "odd", **shape))
    fault = fault_of(odd)
    assert fault.code == "unsupported_architecture"
    assert named in fault.message


def test_a_window_longer_than_the_context_never_matters(
    tiny: Make, tmp_path: Path
) -> None:
    shape = {"layer_types": ["chunked_attention"] * 2, "attention_chunk_size": 64}
    load(type(tiny())(tiny_models.make("llama4_text", tmp_path / "odd", **shape)))


def test_code_that_comes_with_a_model_never_runs(copy: Any) -> None:
    marker = copy.path / "ran"
    (copy.path / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((copy.path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil"}
    (copy.path / "config.json").write_text(json.dumps(config))
    load(copy)
    assert not marker.exists()


def test_positions_that_depend_on_neighbours_are_refused(copy: Any) -> None:
    config = json.loads((copy.path / "config.json").read_text())
    config["rope_parameters"] = {
        "rope_type": "dynamic",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 32,
    }
    (copy.path / "config.json").write_text(json.dumps(config))
    fault = fault_of(copy)
    assert fault.code == "unsupported_context"
    assert "32" in fault.message
