"""A database of its own for each test, on the PostgreSQL that the run's tests share.

Belongs here: making and dropping one. Does not: any test.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


@contextmanager
def new_database(server: str, *, language: str = "") -> Iterator[str]:
    """The URL of a new, empty database on the server of that URL; dropped at the end.

    With a `language` (ICU's name) text is sorted by its rules, else by its bytes.
    """
    sorting = f"TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE '{language}'" if language else ""
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {sorting}".encode())
    try:
        yield server.rpartition("/")[0] + "/" + name
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
