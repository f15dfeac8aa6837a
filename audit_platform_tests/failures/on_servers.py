"""What of the run's servers belongs to one installation: its own topics, bucket, indexes, database.

Belongs here: for tests of the whole path on the real servers. Does not: starting servers
(`servers.py`), our processes (`installation.py`), any test.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from audit_platform.stack.minio_admin import add_identity
from audit_platform.stack.model import Place
from audit_platform_tests.adapters.opensearch_servers import wiped
from audit_platform_tests.databases import new_database
from audit_platform_tests.servers import run_place, stack_settings
from audit_platform_tests.stores import fresh_bucket

#: What the whole path stands on.
SMALL = ("kafka-1", "versitygw", "opensearch-1", "postgres", "redis")


@contextmanager
def servers_of_a_test() -> Iterator[dict[str, str]]:
    """Settings of the run's small stack, with names below which nobody else keeps anything."""
    settings = stack_settings(*SMALL)
    place, _ = run_place()
    with own_names(place, settings, "versitygw") as own:
        yield own


@contextmanager
def own_names(place: Place, settings: Mapping[str, str], store: str) -> Iterator[dict[str, str]]:
    """The same settings with a prefix, a bucket and a database that are new."""
    prefix = f"t{secrets.token_hex(6)}"
    on_minio = store.startswith("minio")
    owner = fresh_bucket(place, place.address(store), in_policy=not on_minio)
    bucket = owner.bucket
    who: dict[str, str] = {}
    if on_minio:
        # It knows rights by identity, not by bucket. The stack's own writer will not do: each start
        # after an outage gives that one the rights in the stack's own bucket again.
        secret = secrets.token_hex(16)
        add_identity(owner, prefix, secret, "writer")
        who = {"AUDIT_S3_ACCESS_KEY": prefix, "AUDIT_S3_SECRET_KEY": secret}
    search = settings["AUDIT_OPENSEARCH"]
    with (
        new_database(settings["AUDIT_DATABASE"]) as database,
        wiped(prefix, url=search, ca_file=settings.get("AUDIT_CA_FILE")),
    ):
        yield {
            **settings,
            **who,
            "AUDIT_PROFILE": "stack",
            "AUDIT_KAFKA_PREFIX": f"{prefix}-",
            "AUDIT_S3_BUCKET": bucket,
            "AUDIT_OPENSEARCH_PREFIX": prefix,
            "AUDIT_DATABASE": database,
            "AUDIT_REDIS_PREFIX": prefix,
        }
