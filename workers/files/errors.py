"""Why a model's files are not there or not right."""

from genie.contracts.inference import Fault


class PullFailed(Exception):
    """A model's files could not be had; ``fault`` says why and what to do next."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.message)


def pull_failed(code: str, message: str, *, retryable: bool = False) -> PullFailed:
    """A `PullFailed` in one line."""
    return PullFailed(Fault(code=code, message=message, retryable=retryable))


def corrupt(model_id: str, name: str, *, expected: str, found: str) -> PullFailed:
    """A file is not what it should be."""
    return pull_failed(
        "corrupt",
        f"{name} of {model_id} is corrupt: its sha256 is {found}, it should be "
        f"{expected}. Run `genie models rm {model_id}`, then pull it again",
    )
