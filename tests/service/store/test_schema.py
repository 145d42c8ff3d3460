"""Tables of another schema version are left alone, and a database that is no aggregator's is not made into one."""

import pytest

from he_agg.errors import ConfigError
from service.store.schema import SCHEMA_VERSION
from service.store.sql import Store


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
@pytest.mark.parametrize("create", [True, False])
def test_another_version_is_refused(database_url, version, create):
    store = Store(database_url, busy_timeout_s=30, create=True)
    with store.write() as tx:
        tx._connection.exec_driver_sql(f"UPDATE meta SET number = {version} WHERE name IN ('schema', 'oldest')")
    store.close()
    with pytest.raises(ConfigError, match=f"expected schema version {SCHEMA_VERSION}, got {version}"):
        Store(database_url, busy_timeout_s=30, create=create)


def test_a_database_without_tables_is_refused_unless_it_may_be_made(postgres):
    with pytest.raises(ConfigError, match="no aggregator's tables"):
        Store(postgres.new_database(), busy_timeout_s=30, create=False)


def test_a_database_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot use the database") as caught:
        Store(f"postgresql://user:hunter2@/x?host={tmp_path}", busy_timeout_s=1, create=True)
    assert "hunter2" not in str(caught.value)
