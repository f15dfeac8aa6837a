"""Every error that the platform raises on purpose, under one root.

Each error can say what a person should do (`remedy`) and carries attributes, not only text. The
branch `Recoverable` means: the same call may pass later, nothing was promised, try again.
Add an error here when a caller must tell it from the others. Not here: findings about the record
(a broken chain is a result, not an exception).
"""

from __future__ import annotations

from enum import StrEnum


class AuditPlatformError(Exception):
    """Root of all errors of this project.

    `reason` says what is wrong, `remedy` what a person should do about it.
    """

    exit_code = 1

    def __init__(self, reason: str, *, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.reason} ({self.remedy})" if self.remedy else self.reason


class Recoverable(AuditPlatformError):
    """Nothing was promised and the same call may pass later. Over HTTP: 503 with `Retry-After`."""

    retry_after_seconds = 1


class LogUnavailable(Recoverable):
    """The log could not make records durable, or could not be read, right now."""


class StoreUnavailable(Recoverable):
    """The object store is full, read-only, or not answering: keep the data and try again."""


class HotUnavailable(Recoverable):
    """The search index does not answer or cannot write: COLD and landing still hold everything."""


class HotRefused(AuditPlatformError):
    """The search index takes some rows never; all others of the call are indexed, durable.

    `rows` are the positions of those it refuses, `created` how many of the others were new.
    """

    def __init__(self, index: str, rows: tuple[int, ...], created: int, why: str) -> None:
        super().__init__(
            f"{index} refuses {len(rows)} rows: {why}",
            remedy="COLD and landing hold them; a search in HOT does not find them",
        )
        self.rows = rows
        self.created = created


class QueryCancelled(AuditPlatformError):
    """A search was stopped: its caller left, or it used more than its tenant may."""


class MetadataUnavailable(Recoverable):
    """The metadata store does not answer."""


class KeysUnavailable(Recoverable):
    """The key store could not be read or could not make a key durable: nothing was signed."""


class TokensUnavailable(Recoverable):
    """The provider's keys cannot be had: whether a token is good cannot be told right now."""


class SpoolUnavailable(Recoverable):
    """The edge's disk could not make entries durable: nothing is promised; the spool goes on."""


class SpoolFull(AuditPlatformError):
    """The spool is at its bound and holds nothing that may be dropped: nothing was stored.

    Over HTTP: 503 with `Retry-After`; the device keeps its event.
    """


class UnknownTopic(AuditPlatformError):
    """A topic that the log does not hold."""


class OffsetOutOfRange(AuditPlatformError):
    """A read before the first record that the log still holds, or past its end.

    `start` is the first readable offset, `end` the offset that the next record will get.
    """

    def __init__(self, topic: str, partition: int, offset: int, start: int, end: int) -> None:
        super().__init__(
            f"offset {offset} of {topic}/{partition} is outside {start}..{end}",
            remedy="start at the end of the last range record; never reset by hand",
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.start = start
        self.end = end


class NotAssigned(AuditPlatformError):
    """A group member committed a partition that it does not hold any more. Nothing changed."""


class ObjectNotFound(AuditPlatformError):
    """No object, or no such version, under this key."""


class ObjectExists(AuditPlatformError):
    """Put-if-absent lost: the key already has a version. The store is unchanged."""

    def __init__(self, key: str) -> None:
        super().__init__(f"object {key} exists already", remedy="read the winner and adopt it")
        self.key = key


class ObjectLocked(AuditPlatformError):
    """Delete, shorten or downgrade of a locked version was refused. The version is unchanged."""


class LogTrouble(StrEnum):
    """In what a log is not the one that the record was made from. The value names it in metrics."""

    TOPIC = "topic"  # another topic id: the topic was made anew, or this is another log
    PARTITIONS = "partitions"  # another number of partitions
    DIGEST = "digest"  # another record stands where one was archived
    TAIL = "tail"  # the log ends before what was archived
    RETENTION = "retention"  # the log begins after what was archived: records between are gone
    CLOSED = "closed"  # this log generation is closed, and no further one is open yet
    RECORD = "record"  # a range record is missing or cannot be read


class GenerationMismatch(AuditPlatformError):
    """The log is not the one that the record was made from; `trouble` says in what."""

    def __init__(self, reason: str, *, remedy: str, trouble: LogTrouble) -> None:
        super().__init__(reason, remedy=remedy)
        self.trouble = trouble


class GenerationRefused(AuditPlatformError):
    """The next log generation is not opened: nothing is wrong with the one that is open."""


class KeyUnknown(AuditPlatformError):
    """No key with this id, or no active key for this purpose."""


class TenantUnknown(AuditPlatformError):
    """No tenant with this id: a credential or an edge key needs one. Nothing was stored."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(
            f"there is no tenant {tenant_id}", remedy=f"audit-platform tenant add {tenant_id}"
        )
        self.tenant_id = tenant_id


class DeviceUnknown(AuditPlatformError):
    """No device with this id is enrolled in this tenant. Nothing was changed."""

    def __init__(self, tenant_id: str, device_id: str) -> None:
        super().__init__(
            f"{tenant_id} has no device {device_id}",
            remedy=f"audit-platform device list {tenant_id} shows those that are enrolled",
        )
        self.tenant_id = tenant_id
        self.device_id = device_id


class AccessDenied(AuditPlatformError):
    """The credential is unknown, revoked, or not allowed to do this."""


class EventRefused(AuditPlatformError):
    """One event that cannot be accepted. `field` is the JSON path of what is wrong.

    `slug` is the stable name of the reason (`bad_json`, `schema_violation`, ...).
    """

    def __init__(self, slug: str, field: str, reason: str, *, remedy: str) -> None:
        super().__init__(reason, remedy=remedy)
        self.slug = slug
        self.field = field


class RecordMalformed(AuditPlatformError):
    """Bytes of a manifest, a range record or another record that do not have the stated form."""

    def __init__(self, where: str, field: str, reason: str) -> None:
        super().__init__(
            f"{where}: {field}: {reason}", remedy="compare with docs/formats.md; keep the bytes"
        )
        self.where = where
        self.field = field


class SealRefused(AuditPlatformError):
    """A day that cannot be sealed now (not closed, not covered, or a leaf would be lost)."""


class DecisionRefused(AuditPlatformError):
    """A decision about dead letters that is not taken, or not carried out; nothing was changed.

    `slug` is the stable name of the reason (`bad_proposal`, `self_approval`, ...).
    """

    def __init__(self, slug: str, reason: str, *, remedy: str) -> None:
        super().__init__(reason, remedy=remedy)
        self.slug = slug


class SettingInvalid(AuditPlatformError):
    """A setting that is missing or wrong: names the setting, what was found and what is wanted."""

    exit_code = 2

    def __init__(self, setting: str, found: str, wanted: str) -> None:
        super().__init__(f"{setting} is {found!r}", remedy=f"wanted: {wanted}")
        self.setting = setting
        self.found = found
        self.wanted = wanted


class StackError(AuditPlatformError):
    """A server of the stack could not be had, started or reached: says which, and what to do."""
