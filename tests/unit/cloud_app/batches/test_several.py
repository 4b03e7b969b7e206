"""Lines that ask for several answers, and for how likely their tokens were."""

from msgspec.structs import replace

from fixtures.batches import desk, echo, line
from fixtures.clouds import Cloud
from genie.contracts.batch import BatchState
from genie.contracts.inference import (
    AnswerExtras,
    FinishReason,
    InferenceTask,
    Outcome,
    PartialAnswer,
    SampledToken,
)

ODDS = (
    SampledToken(token="tex", logprob=-0.25),
    SampledToken(token="t 1", logprob=-0.5),
)


def several(task: InferenceTask) -> Outcome:
    said = echo(task)
    more = PartialAnswer(
        text=said.text, choices=ODDS, finish_reason=FinishReason.LENGTH
    )
    others = (more,) * (task.n - 1)
    return replace(said, extras=AnswerExtras(choices=ODDS, others=others))


def test_a_line_gets_all_its_answers_and_their_tokens(cloud: Cloud) -> None:
    office = desk(cloud)
    asked = line(1)
    body = {
        "model": "echo:small",
        "messages": [{"role": "user", "content": "text 1"}],
        "n": 3,
        "logprobs": True,
    }
    batch = office.run(office.submit([{**asked, "body": body}]), several)
    assert batch.state is BatchState.COMPLETED
    (answer,) = office.read(batch.output_file_id)
    choices = answer["response"]["body"]["choices"]
    assert [one["index"] for one in choices] == [0, 1, 2]
    assert {one["message"]["content"] for one in choices} == {"text 1"}
    for one in choices:
        told = one["logprobs"]["content"]
        assert [token["logprob"] for token in told] == [-0.25, -0.5]
    assert choices[2]["finish_reason"] == "length"
