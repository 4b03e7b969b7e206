"""Files in the cloud: uploaded, listed, read and deleted over HTTP."""

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from genie.api_types import FileAnswer, read, read_list
from genie.errors import BadRequest
from genie.sdk.methods import C, Cloud, OnCloud, items_verb, verb
from genie.sdk.requests import (
    READ_S,
    Call,
    Items,
    ReadLines,
    Steps,
    delete,
    get,
    item_path,
    page,
)

PIECE_BYTES = 1024 * 1024
SLOWEST_BYTES_PER_S = 100_000
"""The slowest upload that is still waited for."""

PATH = "/v1/files"
PREFIX = "file-"


class FilesVerbs(OnCloud[C]):
    """The verbs of the files of an org; see `Files`."""

    @verb
    def upload(self, source: str | os.PathLike[str] | bytes) -> Steps[FileAnswer]:
        """Upload a file for a batch, by its path or as bytes, a piece at a time.

        Raises `BadRequest` when there is no such file, `TooLarge`, `CloudUnreachable`.

        >>> from pathlib import Path
        >>> _ = Path("work.jsonl").write_text('{"custom_id": "a"}')
        >>> client.files.upload("work.jsonl").filename
        'work.jsonl'
        """
        return upload(source)

    @verb
    def list(
        self, *, limit: int = 100, after: str | None = None
    ) -> Steps[tuple[FileAnswer, ...]]:
        """One page of your org's files, newest first.

        >>> made = client.files.upload(b"{}")
        >>> client.files.list(limit=1)[0].id == made.id
        True
        """
        return read_list(FileAnswer, (yield get(PATH, page(limit, after))))

    @verb
    def get(self, file_id: str) -> Steps[FileAnswer]:
        """One file: its name, size and digest; raises `NotFound`.

        >>> client.files.get(client.files.upload(b"{}").id).sha256[:8]
        '44136fa3'
        """
        return read(FileAnswer, (yield get(_path(file_id))))

    @verb
    def content(self, file_id: str) -> Steps[bytes]:
        """All bytes of a file.

        >>> client.files.content(client.files.upload(b"{}").id)
        b'{}'
        """
        return (yield content(file_id))

    @items_verb
    def lines(self, file_id: str) -> Items[str]:
        """Yields the lines of a file; large files are never held in memory.

        >>> list(client.files.lines(client.files.upload(b"one\\ntwo").id))
        ['one', 'two']
        """
        yield ReadLines(call=content(file_id), take=str)

    @verb
    def delete(self, file_id: str) -> Steps[None]:
        """Delete a file; raises `Conflict` while a batch reads it.

        >>> client.files.delete(client.files.upload(b"{}").id)
        """
        yield delete(_path(file_id))


class Files(FilesVerbs[Cloud]):
    """The files of your org, as ``client.files``.

    >>> file = client.files.upload(b'{"custom_id": "a"}')
    >>> file.filename, file.bytes, file.purpose
    ('requests.jsonl', 18, 'batch')
    """

    def save(self, file_id: str, path: str | os.PathLike[str]) -> Path:
        """Write a file to ``path``; returns it.

        >>> client.files.save(client.files.upload(b"{}").id, "copy.jsonl").read_text()
        '{}\\n'
        """
        target = Path(path)
        with target.open("w", encoding="utf-8") as out:
            for line in self.lines(file_id):
                out.write(f"{line}\n")
        return target


def upload(source: str | os.PathLike[str] | bytes) -> Steps[FileAnswer]:
    """Upload a file by its path or as bytes."""
    return read(FileAnswer, (yield _upload_call(source)))


def content(file_id: str) -> Call:
    """Read a whole file."""
    return get(f"{_path(file_id)}/content")


def pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a local file, a megabyte at a time."""
    with path.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            yield piece


def _upload_call(source: str | os.PathLike[str] | bytes) -> Call:
    if isinstance(source, bytes):
        return _form_call("requests.jsonl", len(source), lambda: [source])
    path = Path(source)
    if not path.is_file():
        raise BadRequest(f"there is no file {path}; check its path", param="file")
    return _form_call(path.name, path.stat().st_size, lambda: pieces(path))


def _form_call(name: str, size: int, source: Callable[[], Iterable[bytes]]) -> Call:
    boundary = uuid.uuid4().hex
    head, tail = _form(boundary, name)
    return Call(
        method="POST",
        path=PATH,
        stream=lambda: chain((head,), source(), (tail,)),
        headers={
            "content-type": f"multipart/form-data; boundary={boundary}",
            "content-length": str(len(head) + size + len(tail)),
        },
        timeout_s=READ_S + size / SLOWEST_BYTES_PER_S,
        is_repeatable=True,  # a second copy under another id harms nobody
    )


def _form(boundary: str, name: str) -> tuple[bytes, bytes]:
    """The bytes before and after the file in a form with its purpose."""
    shown = name.encode("ascii", "replace").decode().replace('"', "'")
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{shown}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


def _path(file_id: str) -> str:
    return item_path(PATH, file_id.removeprefix(PREFIX))
