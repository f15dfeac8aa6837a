"""Buckets of the run's own object stores, for tests: each test makes one and nobody else uses it.

Belongs here: a fresh bucket on a store of the stack, and who is who there. Does not: any test.
"""

from __future__ import annotations

import uuid
from dataclasses import replace

from audit_platform.adapters.s3.bucket import make_bucket
from audit_platform.adapters.s3.client import Endpoint
from audit_platform.stack.model import Place
from audit_platform.stack.s3_access import KEEPER, OWNER, READER, WRITER, access
from audit_platform_tests.servers import run_place, stack_settings

#: The kinds of identities on a store of the stack, by their names there.
NAMES = {"writer": [WRITER], "reader": [READER], "keeper": [KEEPER]}


def fresh_bucket(place: Place, address: str, *, in_policy: bool = True) -> Endpoint:
    """A new bucket with lock on a store at host:port, as its owner: one who may delete.

    With `in_policy` the bucket's policy names the writer and the reader.
    """
    bucket = f"t-{uuid.uuid4().hex}"
    endpoint = replace(access(place).endpoint(address, ca_file=place.ca_file), bucket=bucket)
    assert make_bucket(endpoint, names=NAMES if in_policy else None)
    return endpoint


def small_store() -> tuple[Place, str]:
    """The small stack's store, answering: its place and its host:port."""
    stack_settings("versitygw")
    place, _ = run_place()
    return place, place.address("versitygw")


def small_bucket() -> Endpoint:
    """A new bucket on the small stack's store, as its owner."""
    return fresh_bucket(*small_store())


def as_other(endpoint: Endpoint, place: Place, name: str) -> Endpoint:
    """The same bucket as another identity."""
    other = access(place).endpoint(endpoint.host, name, ca_file=endpoint.ca_file)
    assert name != OWNER
    return replace(other, bucket=endpoint.bucket)
