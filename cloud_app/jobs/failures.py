"""How a decision, a refusal or a job's end is said to who asked; pure."""

from cloud_app.brain import router
from genie.contracts.inference import Fault, JobState
from genie.errors import (
    BadRequest,
    ContextTooLong,
    GenieError,
    JobCancelled,
    JobFailed,
    JobTimeout,
    NoCapacity,
    Unavailable,
    UnknownModel,
)

_BY_STATE = {JobState.CANCELLED: JobCancelled, JobState.TIMEOUT: JobTimeout}
_BY_CODE = {kind.code: kind for kind in (ContextTooLong, BadRequest)}


def job_failure(state: JobState, fault: Fault | None) -> GenieError:
    """The error that says how a job ended, for a state other than completed."""
    reason = fault.message if fault else f"the job ended as {state.value}"
    code, param = (fault.code, fault.param) if fault else (None, None)
    kind = _BY_STATE.get(state) or _BY_CODE.get(code or "")
    if kind is not None:
        return kind(reason, param=param)
    if fault is not None and fault.retryable:
        return Unavailable(reason, code=code, param=param, retry_after_s=5)
    return JobFailed(reason, code=code, param=param)


def explain(route: router.Route | router.Refusal) -> dict[str, object]:
    """A decision as plain JSON: what was chosen, and why not the others."""
    if isinstance(route, router.Refusal):
        return {
            "refused": route.code,
            "message": route.message,
            "reasons": list(route.reasons),
        }
    return {
        "model": route.model,
        "queue": route.queue,
        "class": route.work_class.value,
        "locality": route.locality.value,
        "ready": route.ready,
        "waits": route.waits,
        "substituted": route.substituted,
        "reasons": list(route.reasons),
        "skipped": [{"model": s.model, "why": s.why} for s in route.skipped],
    }


def refusal_error(refusal: router.Refusal, text_param: str) -> GenieError:
    """The error a refused route is for its asker."""
    if refusal.code == ContextTooLong.code:
        return ContextTooLong(refusal.message, param=text_param)
    if refusal.code == UnknownModel.code:
        return UnknownModel(refusal.message, param="model")
    if refusal.retryable:
        return NoCapacity(refusal.message, retry_after_s=15)
    return BadRequest(refusal.message, code=refusal.code, param="model")
