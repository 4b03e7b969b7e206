"""Files in the cloud: uploaded, listed, read and deleted over HTTP."""

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from genie.answers import Answer, read, read_list
from genie.errors import BadRequest
from genie.transport import READ_S, Body, Call, Transport

PIECE_BYTES = 1024 * 1024
SLOWEST_BYTES_PER_S = 100_000
"""An upload this slow is still waited for."""

PREFIX = "file-"


class FileAnswer(Answer, frozen=True):
    """A file in the cloud; times are seconds since 1970."""

    id: str
    bytes: int = 0
    filename: str = ""
    purpose: str = ""
    created_at: int = 0
    expires_at: int | None = None
    sha256: str | None = None


class Files:
    """The files of your org.

    with genie.Client() as client:
        file = client.files.upload("requests.jsonl")
        print(file.id, file.bytes)
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, source: str | os.PathLike[str] | bytes) -> FileAnswer:
        """Upload a file for a batch, by its path or as bytes, a piece at a time.

        Raises `BadRequest` when there is no such file, `TooLarge`, `CloudUnreachable`.
        """
        if isinstance(source, bytes):
            return self._upload("requests.jsonl", len(source), lambda: [source])
        path = Path(source)
        if not path.is_file():
            raise BadRequest(f"there is no file {path}; check its path", param="file")
        return self._upload(path.name, path.stat().st_size, lambda: pieces(path))

    def list(
        self, *, limit: int = 100, after: str | None = None
    ) -> tuple[FileAnswer, ...]:
        """Files of your org, newest first, one page of them."""
        params = {"limit": str(limit)} | ({"after": after} if after else {})
        call = Call(method="GET", path="/v1/files", params=params, is_repeatable=True)
        return read_list(FileAnswer, self._transport.call(call))

    def get(self, file_id: str) -> FileAnswer:
        """One file: its name, size and digest; raises `NotFound`."""
        call = Call(method="GET", path=_path(file_id), is_repeatable=True)
        return read(FileAnswer, self._transport.call(call))

    def content(self, file_id: str) -> bytes:
        """All bytes of a file."""
        call = Call(method="GET", path=f"{_path(file_id)}/content", is_repeatable=True)
        return self._transport.call(call)

    def lines(self, file_id: str) -> Iterator[str]:
        """The lines of a file as they arrive; a large one never sits in memory."""
        call = Call(method="GET", path=f"{_path(file_id)}/content", is_repeatable=True)
        response = self._transport.send(call, stream=True)
        with closing(Body(self._transport.url, call, response)) as body:
            yield from body.lines()

    def save(self, file_id: str, path: str | os.PathLike[str]) -> Path:
        """Write a file to ``path``; returns it."""
        target = Path(path)
        with target.open("w", encoding="utf-8") as out:
            for line in self.lines(file_id):
                out.write(f"{line}\n")
        return target

    def delete(self, file_id: str) -> None:
        """Delete a file; raises `Conflict` while a batch reads it."""
        call = Call(method="DELETE", path=_path(file_id), is_repeatable=True)
        self._transport.call(call)

    def _upload(
        self, name: str, size: int, source: Callable[[], Iterable[bytes]]
    ) -> FileAnswer:
        boundary = uuid.uuid4().hex
        head, tail = _form(boundary, name)
        call = Call(
            method="POST",
            path="/v1/files",
            stream=lambda: _around(head, source(), tail),
            headers={
                "content-type": f"multipart/form-data; boundary={boundary}",
                "content-length": str(len(head) + size + len(tail)),
            },
            timeout_s=READ_S + size / SLOWEST_BYTES_PER_S,
            is_repeatable=True,  # a second copy under another id harms nobody
        )
        return read(FileAnswer, self._transport.call(call))


def pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a local file, a megabyte at a time."""
    with path.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            yield piece


def _form(boundary: str, name: str) -> tuple[bytes, bytes]:
    """What stands before and after the file in a form with its purpose."""
    shown = name.encode("ascii", "replace").decode().replace('"', "'")
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{shown}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


def _around(head: bytes, middle: Iterable[bytes], tail: bytes) -> Iterator[bytes]:
    yield head
    yield from middle
    yield tail


def _path(file_id: str) -> str:
    return f"/v1/files/{quote(file_id.removeprefix(PREFIX), safe='')}"
