"""Weights: formats that can run here, where they lie, and blocked linear layers."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from workers.engine.errors import LoadFailed
from workers.engine.protocol import Load
from workers.engine.torch import loading
from workers.engine.torch.loading import BlockedLinear, block_weights, can_pack

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


class Pair(nn.Module):
    """Two layers, one of them a subclass that computes something of its own."""

    class Doubling(nn.Linear):
        def forward(self, rows: Tensor) -> Tensor:
            return 2 * super().forward(rows)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 40)
        self.second = Pair.Doubling(40, 8, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(rows)))
        return out


def test_this_torch_has_the_ops_that_blocking_needs() -> None:
    assert can_pack()


@pytest.mark.parametrize("rows", [1, 2, 16, 129])
@torch.no_grad()
def test_blocked_layers_compute_what_plain_ones_do(rows: int) -> None:
    torch.manual_seed(1)
    model, given = Pair(), torch.randn(1, rows, 24)
    plain = model(given)
    assert block_weights(model) == 1
    assert torch.allclose(model(given), plain, atol=1e-5)


def test_only_plain_layers_are_blocked() -> None:
    model = Pair()
    block_weights(model)
    kinds = [type(one).__name__ for one in model.children()]
    assert kinds == ["BlockedLinear", "Doubling"]


def test_halves_stay_as_they_are() -> None:
    model = Pair().to(torch.bfloat16)
    assert block_weights(model) == 0


@torch.no_grad()
def test_an_embedding_that_shares_its_weights_keeps_them() -> None:
    model = nn.ModuleDict(
        {"embed": nn.Embedding(32, 16), "head": nn.Linear(16, 32, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    rows = model["embed"](torch.arange(4))
    plain = model["head"](rows)
    block_weights(model)
    assert torch.allclose(model["head"](model["embed"](torch.arange(4))), plain)


def test_a_served_model_is_blocked(bench: Make) -> None:
    model = bench("llama").model
    plain = [one for one in model.modules() if type(one) is nn.Linear]
    blocked = [one for one in model.modules() if isinstance(one, BlockedLinear)]
    assert (len(plain), len(blocked)) == (0, 15)
