"""Files are written once and read back, in a folder or any other storage."""

from pathlib import Path

import pytest

from cloud_app.files import files
from cloud_app.files.files import FileStore
from genie.errors import NotFound, SettingsError, Unavailable


@pytest.fixture(params=["folder", "memory"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    """A storage of each kind."""
    if request.param == "folder":
        return FileStore(f"file://{tmp_path}/files")
    return FileStore(f"memory://{tmp_path.name}")


def test_what_was_written_reads_back(made: FileStore) -> None:
    stored = made.write("org/a/file.jsonl", [b"one\n", b"two\n"])
    assert stored.size_bytes == 8
    assert b"".join(made.pieces("org/a/file.jsonl")) == b"one\ntwo\n"
    with made.reading("org/a/file.jsonl") as opened:
        opened.seek(4)
        assert opened.readline() == b"two\n"
    assert made.names("org/a") == ("org/a/file.jsonl",)


def test_a_removed_file_is_not_found_and_removing_twice_is_harmless(
    made: FileStore,
) -> None:
    made.write("a/b", [b"x"])
    made.remove("a/b")
    made.remove("a/b")
    assert made.names("nowhere") == ()
    with pytest.raises(NotFound, match="upload it again"):
        list(made.pieces("a/b"))


def test_a_write_that_breaks_off_leaves_nothing(made: FileStore) -> None:
    def broken() -> object:
        yield b"half"
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        made.write("a/b", broken())  # type: ignore[arg-type]  # it never ends
    assert made.names("a") == ()


def test_a_local_folder_is_its_owner_s_alone(tmp_path: Path) -> None:
    FileStore(str(tmp_path / "files"))
    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("a file")
    with pytest.raises(Unavailable, match="GENIE_FILES_URL"):
        FileStore(str(tmp_path / "in-the-way" / "files"))


def test_a_storage_nobody_knows_says_what_to_set() -> None:
    with pytest.raises(SettingsError, match="GENIE_FILES_URL"):
        FileStore("nonsense://bucket")


def test_one_process_opens_a_storage_once(tmp_path: Path) -> None:
    assert files.at(str(tmp_path)) is files.at(str(tmp_path))
