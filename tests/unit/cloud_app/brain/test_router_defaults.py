"""A persona speaks where its asker did not."""

from cloud_app.brain import router
from fixtures.views import SHIPPED
from genie.contracts.inference import Message

REVIEW = SHIPPED.personas["review"]
ASKED = (Message(role="user", content="x = x + 1"),)


def test_what_was_given_comes_before_what_the_persona_does() -> None:
    given = router.sampling({"temperature": 1.5}, REVIEW)
    assert (given.temperature, given.max_tokens) == (1.5, REVIEW.max_tokens)
    assert router.sampling({}, None).max_tokens is None


def test_a_persona_s_words_come_first_unless_the_asker_brings_its_own() -> None:
    own = (Message(role="system", content="Be short."), *ASKED)
    assert router.messages(own, REVIEW) == own
    assert router.messages(ASKED, None) == ASKED
    first, *rest = router.messages(ASKED, REVIEW)
    assert (first.role, first.content) == ("system", REVIEW.system_prompt)
    assert tuple(rest) == ASKED
