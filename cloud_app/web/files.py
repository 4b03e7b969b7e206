"""Files, in OpenAI's shape: upload, list, read, delete."""

from collections.abc import Iterator
from typing import Annotated, Literal

from flask import Response, request
from flask_openapi3.models.file import FileStorage
from pydantic import BaseModel, Field

from cloud_app.api.json import cursor_page, of_record
from cloud_app.files import files
from cloud_app.store.records import FileRecord
from cloud_app.web.openapi import BYTES, ResponseSpec
from cloud_app.web.request import blueprint, context, key
from genie.api_types import DeletedFile, FileAnswer, FileList
from genie.errors import BadRequest

PAGE_MAX = 1000
ENVELOPE_BYTES = 64 * 1024
"""What a form adds to the file in it."""

api = blueprint("files", "batches", prefix="/v1/files")


@api.before_request
def _allow_large() -> None:
    """An upload may be larger than other bodies; it goes to disk, not to memory."""
    most = context().settings.max_file_bytes + ENVELOPE_BYTES
    request.max_content_length = most


class FilePath(BaseModel):
    """Which file."""

    file_id: str = Field(max_length=64, description="With or without file-.")


class FileForm(BaseModel):
    """A file and what it is for."""

    file: FileStorage = Field(description="The file, JSON lines for a batch.")
    purpose: Literal["batch"]
    anchor: Literal["created_at"] = Field("created_at", alias="expires_after[anchor]")
    seconds: int | None = Field(
        None,
        alias="expires_after[seconds]",
        ge=3600,
        le=2_592_000,
        description="Keep it for so long; at most as long as the cloud keeps files.",
        examples=[86_400],
    )


class FilesQuery(BaseModel):
    """Which files; newest first unless ``order`` is asc."""

    purpose: str | None = Field(None, max_length=24)
    limit: int = Field(PAGE_MAX, ge=1, le=10_000)
    after: str | None = Field(None, max_length=64, description="The last id seen.")
    order: Literal["asc", "desc"] = "desc"


@api.post("")
def upload_file(form: FileForm) -> FileAnswer:
    """Upload a file as multipart/form-data with the fields file and purpose."""
    given = request.files.get("file")
    if given is None:
        raise BadRequest("file is missing; send multipart/form-data", param="file")
    pieces = iter(lambda: given.stream.read(files.PIECE_BYTES), b"")
    stored = files.upload(
        context(),
        key(),
        filename=given.filename or "",
        purpose=form.purpose,
        keep_s=form.seconds,
        pieces=pieces,
    )
    return file_answer(stored)


@api.get("")
def list_files(query: FilesQuery) -> FileList:
    """List this org's files, newest first or oldest first."""
    limit = min(query.limit, PAGE_MAX)
    found = files.find(
        context(),
        key(),
        limit=limit + 1,
        after=query.after,
        purpose=query.purpose,
        oldest_first=query.order == "asc",
    )
    return cursor_page(FileList, [*map(file_answer, found)], limit)


@api.get("/<file_id>")
def get_file(path: FilePath) -> FileAnswer:
    """One file: its name, size and digest."""
    return file_answer(files.get(context(), key(), path.file_id))


@api.get("/<file_id>/content")
def get_file_content(
    path: FilePath,
) -> Annotated[Response, ResponseSpec(bytes, media=BYTES)]:
    """The bytes of a file."""
    file = files.get(context(), key(), path.file_id)
    pieces: Iterator[bytes] = files.content(context(), file)
    response = Response(pieces, mimetype="application/octet-stream")
    response.content_length = file.size_bytes
    response.headers["Content-Disposition"] = "attachment"
    response.headers["Digest"] = f"sha-256={file.sha256}"
    return response


@api.delete("/<file_id>")
def delete_file(path: FilePath) -> DeletedFile:
    """Delete a file; a batch that still reads it must end first."""
    gone = files.delete(context(), key(), path.file_id)
    return DeletedFile(id=f"{files.PREFIX}{gone.id}")


def file_answer(file: FileRecord) -> FileAnswer:
    """A file as the API shows it."""
    shown_id = f"{files.PREFIX}{file.id}"
    return of_record(FileAnswer, file, id=shown_id, bytes=file.size_bytes)
