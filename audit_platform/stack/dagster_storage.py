"""Dagster's own storage on the stack's PostgreSQL: runs, events, ticks and schedules.

Belongs here: the `dagster.yaml` of the stack profile, made from the clone's. Does not: Dagster
(nothing here imports it), the database itself (`postgres.py` makes it).
Source: Dagster's `dagster_postgres.DagsterPostgresStorage`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from audit_platform.errors import StackError

#: Where Dagster's processes find the URL of their database. Not an `AUDIT_` name: Dagster reads it.
VARIABLE: Final = "DAGSTER_DATABASE"

_EMBEDDED: Final = re.compile(r"^storage:\n(?:[ ]+.*\n)+", re.MULTILINE)

_ON_POSTGRES: Final = f"""\
storage:
  postgres:
    postgres_url:
      env: {VARIABLE}
"""


def on_postgres(dagster_yaml: str) -> str:
    """The text of a `dagster.yaml` with PostgreSQL as its storage; all else stays.

    Raises `StackError` when it has no storage, or more than one.
    """
    text, found = _EMBEDDED.subn(_ON_POSTGRES, dagster_yaml)
    if found != 1:
        raise StackError(
            f"dagster.yaml has {found} `storage:` blocks", remedy="give it one, at its left edge"
        )
    return text


def dagster_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """What Dagster's processes need in their environment; `settings` are the stack's."""
    url = settings["AUDIT_DATABASE"].rpartition("/")[0] + "/dagster"
    if ca_file := settings.get("AUDIT_CA_FILE"):
        url += "?" + urlencode({"sslmode": "verify-full", "sslrootcert": ca_file})
    return {VARIABLE: url}
