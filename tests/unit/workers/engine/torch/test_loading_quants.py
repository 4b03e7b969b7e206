"""Weight formats that can run here, and those that are refused with a next step."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from workers.engine.errors import LoadFailed
from workers.engine.protocol import Load
from workers.engine.torch import loading

Make = Callable[..., Any]


@pytest.fixture
def load(tiny: Make) -> Callable[..., Load]:
    def make(dtype: str, device: str = "cpu") -> Load:
        model = tiny()
        quant = msgspec.structs.replace(model.quant(), name=dtype, dtype=dtype)
        given: Load = model.load()
        return msgspec.structs.replace(given, quant=quant, device=device)

    return make


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_plain_dtype_is_what_it_says(load: Make, name: str) -> None:
    assert loading.dtype_of(load(name)) is getattr(torch, name)
    assert loading.config_of(load(name)) is None


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_packed_weights_are_refused_without_a_gpu(load: Make, name: str) -> None:
    with pytest.raises(LoadFailed, match="NVIDIA GPU only; choose a float quant"):
        loading.dtype_of(load(name))


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_packed_weights_are_refused_without_their_library(
    load: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(LoadFailed, match=r"pip install .*bitsandbytes"):
        loading.dtype_of(load(name, "cuda"))


def test_packed_weights_are_computed_with_in_bfloat16(
    load: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: name)
    assert loading.dtype_of(load("nf4", "cuda")) is torch.bfloat16
    four, eight = (loading.config_of(load(name, "cuda")) for name in ("nf4", "int8"))
    assert four is not None
    assert eight is not None
    assert (four.load_in_4bit, four.bnb_4bit_quant_type) == (True, "nf4")
    assert eight.load_in_8bit


def test_an_engine_that_knows_no_packed_weights_says_so(load: Make) -> None:
    with pytest.raises(LoadFailed, match="cannot compute in nf4"):
        loading.plain_dtype_of(load("nf4", "cuda"))


def test_one_gpu_takes_the_whole_model_and_several_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert loading.device_map("cpu") is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert loading.device_map("cuda") == {"": 0}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert loading.device_map("cuda") == "auto"


def test_a_model_that_spilled_out_of_its_gpus_is_refused(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny().reference
    layers: dict[str, str | int] = {"model.layers.0": 0, "model.layers.1": 1}
    monkeypatch.setattr(model, "hf_device_map", layers, raising=False)
    loading.check_placement("tiny", model)
    for spilled in ("cpu", "disk"):
        layers["model.layers.1"] = spilled
        with pytest.raises(LoadFailed, match="does not fit its GPUs"):
            loading.check_placement("tiny", model)
