"""Where the cloud's address and key come from."""

import stat
from pathlib import Path

import pytest

from genie.env import ClientSettings
from genie.errors import SettingsError
from genie.sdk.credentials import LOCAL, Credentials, load, resolve, save

SAVED = Credentials(url="http://127.0.0.1:7070", api_key="sk-genie-local-1")


def settings(
    home: Path, url: str | None = None, api_key: str | None = None
) -> ClientSettings:
    return ClientSettings(url=url, api_key=api_key, home=home)


def test_what_was_saved_is_found_again(tmp_path: Path) -> None:
    save(tmp_path / "new", SAVED)
    assert load(tmp_path / "new") == SAVED


def test_only_the_owner_can_read_a_saved_key(tmp_path: Path) -> None:
    file = save(tmp_path, SAVED)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [LOCAL]


def test_saving_again_replaces_the_key(tmp_path: Path) -> None:
    save(tmp_path, SAVED)
    save(tmp_path, Credentials(url=SAVED.url, api_key="sk-genie-local-2"))
    found = load(tmp_path)
    assert found is not None
    assert found.api_key == "sk-genie-local-2"


def test_the_environment_comes_before_what_was_saved(tmp_path: Path) -> None:
    save(tmp_path, SAVED)
    given = settings(tmp_path, "https://genie.example.com/", "sk-genie-acme-1")
    assert resolve(given) == Credentials(
        url="https://genie.example.com", api_key="sk-genie-acme-1"
    )


def test_a_saved_key_goes_to_no_other_address(tmp_path: Path) -> None:
    save(tmp_path, SAVED)
    assert resolve(settings(tmp_path, "https://genie.example.com")).api_key is None
    assert resolve(settings(tmp_path, f"{SAVED.url}/")).api_key == SAVED.api_key


def test_without_any_address_the_next_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="`genie up`, or set GENIE_URL"):
        resolve(settings(tmp_path))


@pytest.mark.parametrize("content", ["", "{}", "[", '{"url": 3}'])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCAL).write_text(content)
    with pytest.raises(SettingsError, match=r"local\.json cannot be read"):
        resolve(settings(tmp_path))
