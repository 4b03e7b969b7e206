"""What happens in the very moment in which an engine is given a request."""

from genie.contracts.inference import Fault, FinishReason
from unit.workers.serving_twins import Puppet, Stage
from workers.engine.protocol import EngineRequest, Sink


def test_a_cancel_that_comes_while_a_job_starts_reaches_its_engine() -> None:
    class Early(Puppet):
        """Hears of the cancel before it hears of the request."""

        def submit(self, request: EngineRequest, sink: Sink) -> None:
            stage.serving.cancel("job1")
            super().submit(request, sink)

        def cancel(self, request_id: str) -> None:
            if request_id in [one.id for one in self.requests]:
                super().cancel(request_id)

    stage = Stage(Early())
    stage.take()
    assert stage.puppet.cancelled == [stage.puppet.requests[0].id]


def test_what_an_engine_refuses_at_once_is_not_said_to_have_started() -> None:
    class Strict(Puppet):
        def submit(self, request: EngineRequest, sink: Sink) -> None:
            super().submit(request, sink)
            self.finish(FinishReason.ERROR, Fault(code="invalid_request", message=""))

    stage = Stage(Strict())
    stage.take()
    stage.wait()
    assert stage.events.events == [stage.outcome]
