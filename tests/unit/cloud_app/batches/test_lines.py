"""Lines are cut where they lie and refused by name."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.api.requests import CompletionRequest, EmbeddingRequest
from cloud_app.batches import lines
from cloud_app.batches.lines import BadBatchLine, BatchLine
from fixtures.batches import CHAT, jsonl, line

MOST = 4096


def cut(data: bytes, offset: int = 0, after_line: int = 0) -> list[BatchLine]:
    return list(
        lines.split_lines(
            io.BytesIO(data), offset=offset, after_line=after_line, most_bytes=MOST
        )
    )


def parse(data: bytes | dict[str, object], endpoint: str = CHAT) -> lines.LineRequest:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return lines.parse(
        BatchLine(number=1, offset=0, data=raw), endpoint, most_bytes=MOST
    )


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b""))))
def test_cutting_in_two_gives_the_same_lines_as_cutting_once(rows: list[bytes]) -> None:
    data = b"\n".join(rows)
    whole = cut(data)
    for at, one in enumerate(whole):
        end = one.offset + len(one.data)
        assert data[one.offset : end] == one.data
        rest = cut(data, offset=end, after_line=one.number)
        assert [*whole[: at + 1], *rest] == whole


def test_a_line_over_the_limit_is_one_line_and_refused() -> None:
    data = jsonl([line(1)]) + b"x" * (3 * MOST) + b"\n" + jsonl([line(2)])
    first, long, last = cut(data)
    assert [one.number for one in (first, long, last)] == [1, 2, 3]
    assert parse(last.data).custom_id == "line-2"
    with pytest.raises(BadBatchLine, match="longer than 4096 bytes") as refused:
        lines.parse(long, CHAT, most_bytes=MOST)
    assert refused.value.error_code == "line_too_long"


ASKS = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[1]", "invalid_request", None),
        (b"\xff\xfe", "invalid_json_line", None),
        (b"[" * 3000, "invalid_request", None),
        (line(1, custom_id=""), "invalid_request", None),
        (line(1, custom_id=7), "invalid_request", None),
        (line(1, method="GET"), "invalid_method", "method"),
        (line(1, url="/v1/completions"), "mismatched_endpoint", "url"),
        (line(1, body={"model": "echo:small"}), "invalid_request", "body.messages"),
        (line(1, body=3), "invalid_request", "body"),
        (
            line(1, body={**ASKS, "functions": [{}]}),
            "unsupported_parameter",
            "body.functions",
        ),
    ],
)
def test_a_wrong_line_is_refused_with_its_reason(
    data: bytes | dict[str, object], code: str, param: str | None
) -> None:
    with pytest.raises(BadBatchLine) as refused:
        parse(data)
    assert (refused.value.error_code, refused.value.param) == (code, param)


@pytest.mark.parametrize("field", [{"stream": True}, {"mode": "async"}])
def test_a_line_cannot_stream(field: dict[str, object]) -> None:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "echo:small", "messages": messages, **field}
    with pytest.raises(BadBatchLine, match="leave stream and mode out"):
        parse(line(1, body=body))


def test_plain_completions_and_embeddings_are_read_by_their_shapes() -> None:
    body = {"model": "echo:small", "prompt": "go on"}
    found = parse(line(1, url=lines.TEXT, body=body), lines.TEXT)
    assert isinstance(found.body, CompletionRequest)
    texts = {"model": "m", "input": ["a", "b"]}
    found = parse(line(1, url=lines.EMBEDDINGS, body=texts), lines.EMBEDDINGS)
    assert isinstance(found.body, EmbeddingRequest)
