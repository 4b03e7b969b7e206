"""Decides whether a model fits and on which device, from live figures (pure).

Free memory is what the driver or the kernel says now, less a reserve; what our own
models hold counts only against the limit the operator set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from genie.contracts.fleet import DesiredModel, GpuStatus, HostStatus
from genie.contracts.model import Quant
from genie.memory import MemoryNeed

GIB = 1024**3
FILLED_SHARE = 0.95
"""How much of a GPU can be filled when a model is divided by layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A place for weights: ``cpu`` or ``cuda:<index>``, in bytes."""

    name: str
    total: int
    free: int

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``, as quants name it."""
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRefusal:
    """It does not fit; ``reason`` is a sentence with both figures and a next step."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimits:
    """How much of the machine models may take. ``held`` is what ours take now."""

    reserve_share: float
    limit_bytes: int | None = None
    held_bytes: int = 0


def devices(host: HostStatus, gpus: Sequence[GpuStatus]) -> tuple[Device, ...]:
    """The GPUs, then the host's own memory."""
    cards = tuple(
        Device(
            name=f"cuda:{gpu.index}",
            total=gpu.memory_total_bytes,
            free=max(0, gpu.memory_total_bytes - gpu.memory_used_bytes),
        )
        for gpu in gpus
    )
    memory = Device(
        name="cpu", total=host.memory_total_bytes, free=host.memory_available_bytes
    )
    return (*cards, memory)


def usable(device: Device, limits: MemoryLimits) -> int:
    """Bytes of a device a new model may take now."""
    room = device.free - int(device.total * limits.reserve_share)
    if limits.limit_bytes is not None:
        room = min(room, limits.limit_bytes - limits.held_bytes)
    return max(0, room)


def place(
    wanted: DesiredModel,
    quant: Quant,
    need: MemoryNeed,
    places: Sequence[Device],
    limits: MemoryLimits,
    *,
    kinds: Sequence[str] = ("cuda", "cpu"),
) -> str | MemoryRefusal:
    """The device with the most room of those the quant runs on, or why none has it.

    ``cuda:0,1`` means both together. ``kinds`` are those the engine runs on.

    A host with a GPU keeps its own memory for models whose quant names no GPU. A model
    too big for one GPU gets as few of them as hold it together.
    """
    chosen = _kinds(quant, places, kinds)
    fitting = [device for device in places if device.kind in chosen]
    if not fitting:
        return MemoryRefusal(reason=_no_device(wanted, quant, places))
    best = max(fitting, key=lambda device: usable(device, limits))
    if need.total <= usable(best, limits):
        return best.name
    cards = [device for device in fitting if device.kind == "cuda"]
    spread = _spread(need, cards, limits)
    return spread or MemoryRefusal(reason=_too_big(wanted, need, best, limits))


def _spread(
    need: MemoryNeed, cards: Sequence[Device], limits: MemoryLimits
) -> str | None:
    """The fewest GPUs that hold the model together; layers are not divided, so a
    little of each card stays empty."""
    if limits.limit_bytes is not None and (
        need.total > limits.limit_bytes - limits.held_bytes
    ):
        return None
    room, taken = 0, list[str]()
    for card in sorted(cards, key=lambda one: usable(one, limits), reverse=True):
        room += int(usable(card, limits) * FILLED_SHARE)
        taken.append(card.name.partition(":")[2])
        if room >= need.total:
            return f"cuda:{','.join(sorted(taken, key=int))}"
    return None


def _kinds(
    quant: Quant, places: Sequence[Device], kinds: Sequence[str]
) -> tuple[str, ...]:
    both = tuple(kind for kind in quant.devices if kind in kinds)
    has_gpu = any(device.kind == "cuda" for device in places)
    return ("cuda",) if has_gpu and "cuda" in both else both


def _no_device(wanted: DesiredModel, quant: Quant, places: Sequence[Device]) -> str:
    has = ", ".join(device.name for device in places)
    return (
        f"{wanted.spec.id} as {quant.name} runs on {' or '.join(quant.devices)} and "
        f"this machine has {has}; choose another quant"
    )


def _too_big(
    wanted: DesiredModel, need: MemoryNeed, device: Device, limits: MemoryLimits
) -> str:
    parts = (
        f"weights {gib(need.weights)}, KV cache {gib(need.kv_cache)}, "
        f"overhead {gib(need.overhead)}"
    )
    limit = "" if limits.limit_bytes is None else f", limit {gib(limits.limit_bytes)}"
    reserve = gib(int(device.total * limits.reserve_share))
    return (
        f"{wanted.spec.id} ({wanted.quant}, {wanted.slots} slots of {wanted.context} "
        f"tokens) needs {gib(need.total)} GiB ({parts}) and {device.name} has "
        f"{gib(usable(device, limits))} GiB free of {gib(device.total)} (reserve "
        f"{reserve}{limit}); use fewer slots, a smaller context or a smaller model"
    )


def gib(size_bytes: int) -> str:
    """Bytes as GiB with two digits.

    >>> gib(1_610_612_736)
    '1.50'
    """
    return f"{size_bytes / GIB:.2f}"
