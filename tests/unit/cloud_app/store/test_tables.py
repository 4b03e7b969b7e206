"""Column types that mean the same in every database."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Dialect, make_url

from cloud_app.store.tables import ContractText, Table, UtcDateTime
from genie.contracts.inference import Fault
from genie.errors import CodecError

DIALECTS: list[Dialect] = [
    make_url("sqlite://").get_dialect()(),
    make_url("postgresql+psycopg://").get_dialect()(),
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_moment_is_stored_in_utc_and_comes_back_aware(dialect: Dialect) -> None:
    kind = UtcDateTime()
    berlin = datetime(2026, 7, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    noon = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
    assert kind.process_bind_param(berlin, dialect) == noon
    naive = noon.replace(tzinfo=None)
    assert kind.process_result_value(naive, dialect) == noon
    assert kind.process_result_value(noon, dialect) == noon


def test_a_naive_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        UtcDateTime().process_bind_param(datetime(2026, 7, 1), DIALECTS[0])  # noqa: DTZ001  # the mistake under test


def test_a_contract_is_stored_as_json_that_a_later_release_may_add_to() -> None:
    kind, fault = ContractText(Fault), Fault(code="poison", message="a NUL \0")
    text = kind.process_bind_param(fault, DIALECTS[0])
    assert text is not None
    assert "\0" not in text
    assert kind.process_result_value(text, DIALECTS[0]) == fault
    assert "param" not in text
    later = text[:-1] + ',"c":1}'
    assert kind.process_result_value(later, DIALECTS[0]) == fault
    with pytest.raises(CodecError, match="missing required field"):
        kind.process_result_value('{"code":"a"}', DIALECTS[0])


def test_every_constraint_and_index_has_a_name() -> None:
    for table in Table.metadata.sorted_tables:
        assert all(constraint.name for constraint in table.constraints)
        assert all(index.name for index in table.indexes)
