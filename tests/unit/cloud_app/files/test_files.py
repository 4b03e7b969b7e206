"""Files that nobody names: what a process killed during an upload left behind."""

from datetime import timedelta

import pytest

from cloud_app import store
from cloud_app.files import files
from fixtures.batches import Desk, desk
from fixtures.clouds import Cloud

DAY = timedelta(days=1)


@pytest.fixture
def office(cloud: Cloud) -> Desk:
    """A key to upload with."""
    return desk(cloud)


def left_behind(office: Desk, age: timedelta) -> str:
    """The path of an upload that broke off so long ago."""
    ctx = office.cloud.ctx
    name = store.ids.new_id(ctx.now() - age)
    path = f"{office.key.org.id}/files/{name}"
    files.of(ctx).write(path, [b"half of what was sen"])
    return path


def test_a_file_without_a_row_goes_after_a_day(office: Desk) -> None:
    ctx = office.cloud.ctx
    old, new = left_behind(office, 2 * DAY), left_behind(office, DAY / 2)
    kept = office.upload(b"{}\n")
    assert files.tidy(ctx) == 1
    left = files.of(ctx).names(f"{office.key.org.id}/files")
    assert set(left) == {new, kept.path}
    assert old not in left
    assert files.tidy(ctx) == 0


def test_a_named_file_stays_however_old(office: Desk) -> None:
    ctx = office.cloud.ctx
    kept = office.upload(b"{}\n")
    office.cloud.clock.at += 3 * DAY
    assert files.tidy(ctx) == 0
    assert b"".join(files.content(ctx, kept)) == b"{}\n"


def test_many_left_behind_go_at_once(
    office: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "EXPIRE_LIMIT", 2)
    for _ in range(5):
        left_behind(office, 2 * DAY)
    assert files.tidy(office.cloud.ctx) == 5
