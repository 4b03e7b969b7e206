"""What each engine has in hand, as the credit policy sees it: counted and measured."""

from dataclasses import dataclass, field
from threading import Lock

from workers.credits import PREFILL_MOST_S, Load, bid
from workers.engine.protocol import Finish
from workers.reading import Reading


@dataclass(slots=True)
class _InHand:
    """One engine's requests, by id with the time it got them, and its prompts.

    ``yielding`` are those that may have to wait for others in the middle.
    ``is_shut``: a prompt came after which no other was asked for.
    """

    begun: dict[str, float] = field(default_factory=dict)
    yielding: set[str] = field(default_factory=set)
    reading: Reading = field(default_factory=Reading)
    is_shut: bool = False

    def is_full(self, now: float) -> bool:
        """True while another prompt would be read sooner elsewhere."""
        return self.reading.left_s(now) >= PREFILL_MOST_S

    def pauses(self, request: str) -> bool:
        """True if it may have had to wait for more urgent ones while it was read."""
        return request in self.yielding and len(self.begun) > len(self.yielding)


class Loads:
    """The requests in hand of every model, from any thread; times are monotonic.

    Counted here, since an engine's own report is as late as its last pass.
    """

    def __init__(self) -> None:
        self._models: dict[str, _InHand] = {}
        self._lock = Lock()

    def begin(
        self, model: str, request: str, size: int, now: float, *, yields: bool = False
    ) -> None:
        """An engine gets a request; ``size`` is its message's, in bytes.

        ``yields`` says that the engine stops it for more urgent ones.
        """
        with self._lock:
            here = self._models.setdefault(model, _InHand())
            here.begun[request] = now
            if yields:
                here.yielding.add(request)
            here.reading.begin(request, size, now)
            here.is_shut = here.is_shut or here.is_full(now)

    def heard(self, model: str, request: str, now: float) -> bool:
        """Something of its answer came. True if for this another may now be asked for
        that could not before."""
        with self._lock:
            here = self._models[model]
            here.reading.end(request, now, learns=not here.pauses(request))
            opens = here.is_shut and not here.is_full(now)
            here.is_shut = here.is_shut and not opens
            return opens

    def finished(self, model: str, request: str, finish: Finish, now: float) -> None:
        """Its last word came, perhaps its only one: learn from it and let go of it."""
        with self._lock:
            here = self._models[model]
            first_at = here.begun.get(request, now) + finish.first_token_s
            read_at = first_at if finish.first_token_s else now
            here.reading.end(request, read_at, learns=not here.pauses(request))
        self.end(model, request)

    def end(self, model: str, request: str) -> None:
        """It is no longer here; of one that never was that is no news."""
        with self._lock:
            here = self._models.get(model)
            if here is not None:
                here.begun.pop(request, None)
                here.yielding.discard(request)
                here.reading.drop(request)

    def of(self, model: str, *, slots: int, now: float, dither: float) -> Load:
        """A ready model with this many slots; ``dither`` is random in [0, 1)."""
        with self._lock:
            here = self._models.get(model) or _InHand()
            in_flight, left_s = len(here.begun), here.reading.left_s(now)
            yielding, speed = len(here.yielding), here.reading.speed(now)
        offer = bid(speed, in_flight=in_flight, slots=slots, dither=dither)
        return Load(
            model=model,
            slots=slots,
            in_flight=in_flight,
            yielding=yielding,
            bid=offer,
            prefill_queued_s=left_s,
        )
