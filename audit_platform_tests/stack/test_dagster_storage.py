"""Dagster keeps its runs in PostgreSQL when the stack is up."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import psycopg
import pytest
import yaml

from audit_platform.demo.setup import TOP
from audit_platform.errors import StackError
from audit_platform.stack.dagster_storage import VARIABLE, dagster_environment, on_postgres
from audit_platform_tests.servers import stack_settings

GIVEN = (TOP / "dagster.yaml").read_text()


def test_only_the_storage_differs_from_the_clones_file() -> None:
    made, given = yaml.safe_load(on_postgres(GIVEN)), yaml.safe_load(GIVEN)
    assert made.pop("storage") == {"postgres": {"postgres_url": {"env": VARIABLE}}}
    assert given.pop("storage") != {}
    assert made == given
    assert len(made) > 5


@pytest.mark.parametrize("text", ["", "storage: {}\n", GIVEN + "\nstorage:\n  sqlite:\n    a: b\n"])
def test_a_file_without_one_storage_block_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="storage"):
        on_postgres(text)


def test_a_run_is_kept_in_the_database_and_found_by_another_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = stack_settings("postgres")["AUDIT_DATABASE"]
    monkeypatch.setenv("DAGSTER_FOLDER", str(tmp_path))
    [(name, url)] = dagster_environment({"AUDIT_DATABASE": database}).items()
    monkeypatch.setenv(name, url)
    (tmp_path / "dagster.yaml").write_text(on_postgres(GIVEN))

    @dg.asset
    def kept() -> int:
        return 1

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        done = dg.materialize([kept], instance=instance)
        assert done.success
    with dg.DagsterInstance.from_config(str(tmp_path)) as again:
        assert [run.run_id for run in again.get_runs()] == [done.run_id]
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT run_id FROM runs").fetchall() == [(done.run_id,)]
    assert not list(tmp_path.rglob("*.db"))
