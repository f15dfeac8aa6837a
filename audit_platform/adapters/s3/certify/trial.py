"""The tools of the checks: a scratch bucket, acts that must be refused, what came of each check.

Belongs here: how a check says what it found. Does not: any check.
"""

from __future__ import annotations

import hashlib
import importlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from audit_platform.adapters.s3.client import Endpoint, asking, code_of, make_client, status_of
from audit_platform.adapters.s3.upload import b64
from audit_platform.errors import AuditPlatformError

#: How long what a trial locks stays: longer than a trial takes, short enough to be cleaned soon.
LOCK_SECONDS: Final = 120

#: Where the checks are, in the order of trying.
_MODULES: Final = ("locks", "bodies", "identities")

_REFUSALS: Final = range(400, 500)


class Unmet(Exception):
    """A check found something else than it wants; the text says what."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `relied_on` is False for what the adapter does without, told all the same."""

    about: str
    sentence: str
    relied_on: bool
    run: Callable[[Trial], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check: `found` is "" when it holds. `tried` is False if it could not be."""

    about: str
    sentence: str
    relied_on: bool
    tried: bool
    found: str

    @property
    def holds(self) -> bool:
        """Tried and met."""
        return self.tried and not self.found


_checks: Final[list[Check]] = []


def checks() -> list[Check]:
    """Every check, in the order of trying."""
    for name in _MODULES:  # they put their checks on the list
        importlib.import_module(f"{__package__}.{name}")
    return _checks


def check(
    about: str, sentence: str, *, relied_on: bool = True
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Put a function on the list of checks."""

    def listed(run: Callable[[Trial], None]) -> Callable[[Trial], None]:
        _checks.append(Check(about, sentence, relied_on, run))
        return run

    return listed


class NotTried(Exception):
    """A check that needs something that the trial was not given."""


@dataclass(frozen=True, slots=True)
class Put:
    """A version that a check stored, and what must come back."""

    bucket: str
    key: str
    version_id: str
    body: bytes
    until: datetime | None = None

    def which(self) -> dict[str, str]:
        """The arguments that name it."""
        return {"Bucket": self.bucket, "Key": self.key, "VersionId": self.version_id}


@dataclass(slots=True)
class Trial:
    """One store under trial: the administrator's client, and those of the identities, if given.

    `bucket` is a scratch bucket with lock, made for this trial; `real` the bucket of the platform,
    where the identities have their rights.
    """

    admin: Any
    bucket: str
    endpoint: Endpoint
    identities: dict[str, Endpoint] = field(default_factory=dict)
    clients: dict[str, Any] = field(default_factory=dict)

    @property
    def real(self) -> str:
        """The platform's own bucket."""
        return self.endpoint.bucket

    def as_identity(self, kind: str) -> Any:
        """The client of the writer or the reader. Raises `NotTried`."""
        if kind not in self.identities:
            raise NotTried(f"no keys of a {kind} were given")
        if kind not in self.clients:
            self.clients[kind] = make_client(self.identities[kind])
        return self.clients[kind]

    def key(self) -> str:
        """A new key."""
        return f"certify/v1/{uuid.uuid4().hex}"

    def put(
        self,
        *,
        key: str = "",
        body: bytes = b"evidence",
        locked: bool = True,
        seconds: int = LOCK_SECONDS,
        client: Any = None,
        bucket: str = "",
        **more: Any,
    ) -> Put:
        """Store a version, locked or not."""
        key, bucket = key or self.key(), bucket or self.bucket
        until = later(seconds) if locked else None
        lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
        answer = (client or self.admin).put_object(
            Bucket=bucket,
            Key=key,
            Body=body,
            ChecksumSHA256=b64(hashlib.sha256(body).digest()),
            **(lock if locked else {}),
            **more,
        )
        version_id = answer.get("VersionId", "")
        want(version_id not in {"", "null"}, "the put gave no version id")
        return Put(bucket, key, version_id, body, until)

    def kept(self, put: Put, until: datetime | None = None) -> None:
        """The version reads back byte for byte, and so does its lock."""
        read = self.admin.get_object(**put.which())["Body"].read()
        want(read == put.body, f"{len(read)} other bytes came back")
        wanted = until or put.until
        if wanted is not None:
            retention = self.admin.get_object_retention(**put.which()).get("Retention", {})
            want(retention.get("Mode") == "COMPLIANCE", f"the mode became {retention.get('Mode')}")
            found = retention.get("RetainUntilDate")
            want(found == wanted, f"the date became {found}, not {wanted}")

    def refused(self, act: Callable[[], Any], put: Put | None = None, *, only: int = 0) -> None:
        """An act is refused, and the version that it was tried on is what it was.

        With a 4xx, or with exactly `only`.
        """
        try:
            answer = act()
        except ClientError as e:
            good = status_of(e) == only if only else status_of(e) in _REFUSALS
            want(good, f"answered {status_of(e)} {code_of(e)}")
        else:
            errors = answer.get("Errors") if isinstance(answer, dict) else None
            want(bool(errors), "it was allowed")
        if put is not None:
            self.kept(put)


def later(seconds: int) -> datetime:
    """A date in whole seconds from now."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)


def want(met: bool, found: str) -> None:  # noqa: FBT001 - reads as a sentence: want(this, else that)
    """Raise `Unmet` with what was found instead."""
    if not met:
        raise Unmet(found)


class StoreRefused(AuditPlatformError):
    """A target that cannot be certified at all: nothing that it says would prove anything."""


def certify(endpoint: Endpoint, identities: dict[str, Endpoint]) -> list[Result]:
    """Try every check on a store, as its administrator and as the identities, in order.

    `endpoint.bucket` must be there with the identities' rights. Makes a scratch bucket of its own
    and takes it away if nothing in it is locked any more. Raises `StoreRefused` for a stand-in,
    `StoreUnavailable`.
    """
    refuse_a_stand_in(endpoint)
    trial = Trial(make_client(endpoint), f"certify-{uuid.uuid4().hex[:20]}", endpoint, identities)
    with asking("make a scratch bucket", endpoint.host):
        trial.admin.create_bucket(Bucket=trial.bucket, ObjectLockEnabledForBucket=True)
    try:
        return [tried(one, trial) for one in checks()]
    finally:
        _clean(trial)


def refuse_a_stand_in(endpoint: Endpoint) -> None:
    """Raise `StoreRefused` for a server that takes any key: moto, a stub, a proxy that signs."""
    nobody = replace(endpoint, access_key=f"nobody{uuid.uuid4().hex[:12]}", secret_key="wrong")  # noqa: S106 - it must be
    client = make_client(nobody)
    try:
        client.list_buckets()
    except ClientError as e:
        if status_of(e) in _REFUSALS:
            return
        raise StoreRefused(f"{endpoint.host} says {status_of(e)} {code_of(e)}") from e
    except (BotoCoreError, HTTPError, OSError) as e:
        raise StoreRefused(
            f"{endpoint.host} does not answer as an S3 store: {' '.join(str(e).split())}",
            remedy="look at the URL",
        ) from e
    finally:
        client.close()
    raise StoreRefused(
        f"{endpoint.host} takes a key that nobody made: a stand-in such as moto, not a store",
        remedy="moto has no authentication and accepts that a lock is shortened: it proves nothing",
    )


def tried(one: Check, trial: Trial) -> Result:
    """Try one check."""
    could_be, found = True, ""
    try:
        one.run(trial)
    except Unmet as e:
        found = str(e)
    except NotTried as e:
        could_be, found = False, str(e)
    except ClientError as e:
        found = f"{e.operation_name} was answered {status_of(e)} {code_of(e)}"
    except (BotoCoreError, HTTPError, OSError) as e:
        found = " ".join(str(e).split())
    return Result(one.about, one.sentence, one.relied_on, could_be, found)


def _clean(trial: Trial) -> None:
    """Remove what may be removed. What is locked stays until its date: that was the proof."""
    admin, bucket = trial.admin, trial.bucket
    try:
        for page in admin.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for row in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                which = {"Key": row["Key"], "VersionId": row["VersionId"]}
                attempt(admin.delete_object, Bucket=bucket, **which)
    except (ClientError, BotoCoreError):
        pass  # the listing failed: the bucket stays as it is
    attempt(admin.delete_bucket, Bucket=bucket)
    for client in (admin, *trial.clients.values()):
        client.close()


def attempt(act: Callable[..., Any], **which: str) -> None:
    """Do what need not succeed: cleaning."""
    try:
        act(**which)
    except (ClientError, BotoCoreError):
        return
