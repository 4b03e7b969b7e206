"""The events of one request, in order and counted."""

from collections.abc import Callable
from typing import Any

from genie.contracts.inference import Fault, FinishReason, SampledToken, Sampling
from workers.engine.child.backend import PieceWriter
from workers.engine.protocol import Finish, Piece

Make = Callable[..., Any]


def test_text_held_back_counts_with_the_piece_that_shows_it(request_for: Make) -> None:
    request = request_for(chat="x", sampling=Sampling(stop=("end",)))
    answer = PieceWriter(request, prompt=1, started=0.0)
    assert answer.add("e", 1.0) is None
    assert answer.add("n", 2.0) is None
    assert answer.add("joy", 3.0) == Piece(id="r", text="enjoy", tokens=3)


def test_what_was_held_back_comes_before_the_finish(request_for: Make) -> None:
    request = request_for(chat="x", sampling=Sampling(stop=("end",)))
    answer = PieceWriter(request, prompt=7, started=1.0)
    answer.add("en", 3.0)
    piece, finish = answer.end(FinishReason.LENGTH, 5.0, None)
    assert piece == Piece(id="r", text="en", tokens=1)
    assert isinstance(finish, Finish)
    assert (finish.first_token_s, finish.total_s) == (2.0, 4.0)
    assert (finish.usage.prompt_tokens, finish.usage.completion_tokens) == (7, 1)


def test_a_fault_comes_alone(request_for: Make) -> None:
    request = request_for(chat="x", sampling=Sampling(stop=("end",)))
    answer = PieceWriter(request, prompt=7, started=1.0)
    answer.add("en", 3.0)
    fault = Fault(code="engine_error", message="no")
    (finish,) = answer.end(FinishReason.ERROR, 5.0, fault)
    assert isinstance(finish, Finish)
    assert finish.fault == fault


def test_a_stop_string_before_the_least_tokens_is_text(request_for: Make) -> None:
    request = request_for(chat="x", sampling=Sampling(stop=("end",), min_tokens=2))
    answer = PieceWriter(request, prompt=1, started=0.0)
    answer.add("end", 1.0)
    answer.add(" is", 2.0)
    assert not answer.is_stopped
    assert answer.add(" the end", 3.0) == Piece(id="r", text=" the ", tokens=1)
    assert answer.is_stopped


def test_choices_travel_with_the_text_of_their_tokens(request_for: Make) -> None:
    request = request_for(chat="x", sampling=Sampling(stop=("end",), logprobs=0))
    answer = PieceWriter(request, prompt=1, started=0.0)
    choices = [SampledToken(token=token, logprob=-0.5) for token in ("en", "joy")]
    assert answer.add("en", 1.0, choices[0]) is None
    piece = answer.add("joy", 2.0, choices[1])
    assert piece is not None
    assert piece.choices == tuple(choices)


def test_tokens_of_a_stop_are_not_told_of(request_for: Make) -> None:
    request = request_for(chat="x", sampling=Sampling(stop=("end",)))
    answer = PieceWriter(request, prompt=1, started=0.0)
    said = ["a", "be", "nd"]
    tokens = [SampledToken(token=token, logprob=-0.5) for token in said]
    pieces = [
        answer.add(text, 1.0, token) for text, token in zip(said, tokens, strict=True)
    ]
    assert answer.is_stopped
    shown = [piece for piece in pieces if piece is not None]
    assert "".join(piece.text for piece in shown) == "ab"
    told = [token for piece in shown for token in piece.choices]
    assert told == tokens[:2]
    assert answer.end(FinishReason.STOP, 2.0, None)[0].id == request.id


def test_a_token_is_told_of_with_its_text_and_not_before(request_for: Make) -> None:
    request = request_for(chat="x", sampling=Sampling(stop=("end",)))
    answer = PieceWriter(request, prompt=1, started=0.0)
    tokens = [SampledToken(token=token, logprob=-0.5) for token in ("a", "en", "joy")]
    first, held, rest = (answer.add(token.token, 1.0, token) for token in tokens)
    assert first is not None
    assert first.choices == (tokens[0],)
    assert held is None
    assert rest is not None
    assert rest.choices == tuple(tokens[1:])
