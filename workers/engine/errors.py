"""The errors of engines, each a class that carries its data."""

from genie.contracts.inference import Fault


class EngineError(Exception):
    """Base of everything an engine raises to whoever uses it."""


class EngineBusy(EngineError):
    """All slots run and the waiting room is full; ``bound`` says how many may wait."""

    def __init__(self, *, in_flight: int, bound: int) -> None:
        self.in_flight = in_flight
        self.bound = bound
        super().__init__(
            f"the engine has {in_flight} requests in flight and lets at most "
            f"{bound} wait; send this one elsewhere or later"
        )


class _FaultError(EngineError):
    """An error whose ``fault`` says why."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.message)


class EngineGone(_FaultError):
    """The engine has died or was closed; ``fault`` says why."""


class LoadFailed(_FaultError):
    """A model could not be loaded; ``fault`` says why and what to do next."""


class RequestRefused(_FaultError):
    """A request this engine cannot run; ``fault`` becomes its one `Finish`."""


def load_failed(code: str, message: str) -> LoadFailed:
    """A `LoadFailed` in one line; ``message`` ends with the next step."""
    return LoadFailed(Fault(code=code, message=message))


def refused(code: str, message: str, param: str | None = None) -> RequestRefused:
    """A `RequestRefused` in one line; ``param`` names the field of the request."""
    return RequestRefused(Fault(code=code, message=message, param=param))
