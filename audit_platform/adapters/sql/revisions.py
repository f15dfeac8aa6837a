"""Bringing a database up to the newest revision.

Belongs here: which revision a database has and what it lacks. Does not: the revisions themselves
(`migrations/versions/`), the lock that keeps other openers out (each database has its own).
"""

from __future__ import annotations

import re
from typing import Final

import sqlalchemy as sa

from audit_platform.adapters.sql.tables import HEAD
from audit_platform.errors import AuditPlatformError

#: All of ours are four digits; another program on Alembic (Dagster) has other names.
_REVISION: Final = re.compile("[0-9]{4}")


def is_up(connection: sa.Connection) -> bool:
    """Whether nothing is lacking.

    Raises `AuditPlatformError` for a store of a newer version, and for a database that another
    program keeps its own tables in.
    """
    found = None
    if sa.inspect(connection).has_table("alembic_version"):
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if found is not None and not _REVISION.fullmatch(found):
        raise AuditPlatformError(
            f"the database has the tables of another program (revision {found[:40]!a})",
            remedy="give the metadata store a database of its own: AUDIT_DATABASE",
        )
    if found is not None and found > HEAD:
        raise AuditPlatformError(
            f"the metadata store has revision {found}, this program knows {HEAD}",
            remedy="run the newer version of audit-platform that brought it there",
        )
    return bool(found == HEAD)


def bring_up(connection: sa.Connection) -> None:
    """Apply what the database lacks, in the caller's transaction, under the caller's lock.

    Raises as `is_up`.
    """
    if is_up(connection):
        return
    from alembic import command  # noqa: PLC0415 - only a store that is behind pays for it
    from alembic.config import Config  # noqa: PLC0415 - the same

    config = Config()
    config.set_main_option("script_location", "audit_platform.adapters.sql:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
