"""What the platform asks of the world: log, objects, metadata, keys, clock. Contracts in prose.

A port asks for what the platform needs, not for what stores have in common. Each docstring says
what holds when the call returns, what it raises, and what is unchanged then; every adapter passes
the same contract suite (`audit_platform_tests/contracts/`). Add a method when an operation or a
service needs it. Not here: any implementation, any vendor word.

Terms: a *record* is one value in a partition of a topic at an *offset*; a *version* is one stored
body under an object's key; times are wall-clock milliseconds since 1970 unless the name says
`monotonic`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, Protocol

if TYPE_CHECKING:  # they are slow to import, and `--help` imports the ports
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

# ---------------------------------------------------------------------------------------- clock


class Clock(Protocol):
    """The wall clock. Time-outs and leases never use it: they run on `time.monotonic()`."""

    def now_ms(self) -> int:
        """Wall-clock milliseconds since 1970, UTC."""
        ...


# ------------------------------------------------------------------------------------------ log


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as the log knows it. A re-created topic has another `topic_id`."""

    name: str
    topic_id: str
    partitions: int


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append. Header values are short ASCII text."""

    partition: int
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record as read. `appended_ms` is the log's own clock (LogAppendTime)."""

    topic: str
    partition: int
    offset: int
    appended_ms: int
    value: bytes
    headers: Mapping[str, str]


class GroupMember(Protocol):
    """One consumer of a group. Partitions are leased; a lease not renewed in time passes on.

    Offsets committed are a hint for the next member, never the truth (range records are).
    """

    def assignment(self) -> frozenset[int]:
        """Renew the lease and return the partitions that are ours now. Never blocks for long."""
        ...

    def commit(self, partition: int, offset: int) -> None:
        """Store `offset` as the next one to read.

        Durable on return. Raises `NotAssigned` (nothing changed) when the lease has passed on.
        """
        ...

    def committed(self, partition: int) -> int | None:
        """The offset that the group stored last, or None."""
        ...

    def leave(self) -> None:
        """Give the partitions up at once. Idempotent."""
        ...


class Log(Protocol):
    """A partitioned, durable, append-only log. Several processes may use it at once."""

    def describe(self, topic: str) -> TopicInfo:
        """The topic. Raises `UnknownTopic`, `LogUnavailable`."""
        ...

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[int]:
        """Append records; on return each is durable. Returns their offsets in the given order.

        Records of one partition keep the given order and are not torn apart by other writers'
        records *inside* one record. Raises `LogUnavailable`: nothing is promised, some records may
        be in the log all the same. Raises `UnknownTopic`, `ValueError` for a partition that does
        not exist (nothing written).
        """
        ...

    def read(self, topic: str, partition: int, offset: int, max_bytes: int) -> list[LogRecord]:
        """Durable records from `offset` on, at least one if there is any, about `max_bytes` long.

        Never blocks for new ones: an empty list means "at the end". Offsets may have holes; a read
        inside a hole starts at the next record. Raises `OffsetOutOfRange`, `LogUnavailable`.
        """
        ...

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first readable offset, offset after the last durable record)."""
        ...

    def now_ms(self) -> int:
        """What `appended_ms` of a record would be that is appended now, about."""
        ...

    def join(self, group: str, topic: str, member: str) -> GroupMember:
        """Become a member of a group that shares the topic's partitions."""
        ...

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """What a group has committed, by partition: the next offset to read. Makes no member.

        Partitions of which nothing was committed are left out. Raises `LogUnavailable`.
        """
        ...


# -------------------------------------------------------------------------------------- objects


class LockMode(StrEnum):
    """How strongly a version is locked. COMPLIANCE cannot be shortened or lifted by anyone."""

    COMPLIANCE = "COMPLIANCE"


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version under a key. `sha256` is lower hex of the body; "" for a delete marker.

    `retain_until_ms` is 0 when the version is not locked.
    """

    key: str
    version_id: str
    size: int
    sha256: str
    created_ms: int
    is_delete_marker: bool
    retain_until_ms: int
    legal_hold: bool


class Objects(Protocol):
    """Objects with put-if-absent, versions, retention and legal hold. All processes see one store.

    Versions of a key are ordered; *the oldest counts*. Nothing ever changes a version's body.
    """

    lock: str
    """`enforced` by a store of its own, or `advisory`: we refuse, a root user need not."""

    def put(self, key: str, data: bytes, *, retain_until_ms: int, if_absent: bool) -> ObjectVersion:
        """Store a version in COMPLIANCE mode until `retain_until_ms`; durable on return.

        With `if_absent`: raises `ObjectExists` when the key has any version (nothing stored).
        Without: adds a newer version. Raises `StoreUnavailable`: the version may or may not be
        there: read before putting again. `ValueError` for a malformed key.
        """
        ...

    def get(self, key: str, version_id: str) -> bytes:
        """The whole body of one version. Raises `ObjectNotFound`, `StoreUnavailable`."""
        ...

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:
        """A seekable binary reader over one version. Raises as `get`."""
        ...

    def head(self, key: str, version_id: str) -> ObjectVersion:
        """One version as stored now (this is how a lock is read back). Raises as `get`."""
        ...

    def oldest(self, key: str) -> ObjectVersion | None:
        """The oldest version of a key that has a body, or None. A delete marker hides nothing."""
        ...

    def versions(self, prefix: str, *, after_key: str = "") -> Iterator[ObjectVersion]:
        """All versions and delete markers of keys with this prefix and `> after_key`.

        In key order, oldest version of a key first. `prefix` ends with `/` or is a whole key.
        """
        ...

    def extend(self, key: str, version_id: str, retain_until_ms: int) -> ObjectVersion:
        """Lengthen a version's retention; durable on return.

        An equal date changes nothing; a shorter one raises `ObjectLocked`.
        """
        ...

    def set_legal_hold(self, key: str, version_id: str, *, hold: bool) -> None:
        """Set or lift a legal hold on one version; durable on return."""
        ...

    def delete(self, key: str, version_id: str | None = None) -> None:
        """Without a version: add a delete marker on top. With one: remove it for good.

        Raises `ObjectLocked` for a version under retention or hold, `ObjectNotFound`.
        """
        ...


# ------------------------------------------------------------------------------------------ hot


#: An unacknowledged batch comes again within the edge's 72 hours: on one of this many next days.
HOT_COPY_DAYS: Final = 4


class EventClock(StrEnum):
    """Which of an event's two times a window and an order go by.

    `ingestion` is the authoritative clock; `event` is what the device said.
    """

    INGESTION = "ingestion"
    EVENT = "event"


class EventPosition(NamedTuple):
    """Where one event stands in the order of a search: strictly ascending, the same in all tiers.

    `ms` is the time by the query's clock.
    """

    ms: int
    device_id: str
    sequence_number: int
    event_hash: bytes


@dataclass(frozen=True, slots=True)
class EventQuery:
    """What is looked for in one tenant. None means: any. The window is `from_ms <= t < to_ms`.

    `text` is a word or several: each must stand in the payload's or the envelope's text as a word,
    case folded. `after` is the position of the last event seen. Ascending by `EventPosition`.
    """

    tenant_id: str
    from_ms: int
    to_ms: int
    clock: EventClock = EventClock.INGESTION
    device_id: str | None = None
    hospital_id: str | None = None
    event_type: str | None = None
    criticality: str | None = None
    text: str | None = None
    after: EventPosition | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class HotIndex:
    """One index of HOT: a tenant's UTC day (of ingestionTime) in one generation.

    Searches read the index with `is_read`; new events go to the one with `is_write`. `documents` is
    -1 where the index is damaged and cannot tell.
    """

    tenant_id: str
    day: str
    generation: int
    documents: int
    is_read: bool
    is_write: bool


class Hot(Protocol):
    """Fast search over recent events. It promises the *set* of eventHashes, nothing more.

    An event's id is its eventHash; nothing is ever overwritten. It can be rebuilt from COLD and
    landing at any time. All methods raise `HotUnavailable`: nothing was promised.
    """

    def create(self, tenant_id: str, day: str, rows: pa.RecordBatch) -> int:
        """Index rows of `record.columns.EVENT_SCHEMA` in the day's write index; durable on return.

        Rows whose eventHash is there already change nothing. Returns how many were new. A day
        without an index gets one, read and written. `ValueError` for a row of another day;
        `HotRefused` for rows that it will never take, when all others are indexed.
        """
        ...

    def search(self, query: EventQuery, *, is_cancelled: Callable[[], bool]) -> pa.Table:
        """At most `query.limit` rows of `EVENT_SCHEMA`, ascending by position.

        A copy of an event that an index of up to `HOT_COPY_DAYS` days before has is left out: it
        will be sealed once. `is_cancelled` is asked often enough to stop within 100 ms; then
        `QueryCancelled`.
        """
        ...

    def hashes(self, tenant_id: str, day: str, generation: int) -> npt.NDArray[np.uint8]:
        """All eventHashes of one index, ascending, shape (n, 32). No such index: shape (0, 32)."""
        ...

    def indexes(self, tenant_id: str | None = None) -> list[HotIndex]:
        """All indexes (of one tenant), by tenant, day, generation."""
        ...

    def new_index(self, tenant_id: str, day: str) -> int:
        """Make an empty index with the next generation, neither read nor written; its number."""
        ...

    def fill(self, tenant_id: str, day: str, generation: int, rows: pa.RecordBatch) -> int:
        """As `create`, into one generation."""
        ...

    def move_write(self, tenant_id: str, day: str, generation: int) -> None:
        """From now on `create` goes to this generation. Durable, at one instant."""
        ...

    def move_read(self, tenant_id: str, day: str, generation: int) -> None:
        """From now on searches read this generation. Durable, at one instant."""
        ...

    def remove(self, tenant_id: str, day: str, generation: int, hashes: Sequence[bytes]) -> int:
        """Take events out of one index (they are not in the sealed day). Returns how many."""
        ...

    def delete_index(self, tenant_id: str, day: str, generation: int) -> None:
        """Delete one index with all that is in it. Idempotent."""
        ...

    def compact(self, tenant_id: str, day: str, generation: int) -> None:
        """Bring an index into its smallest form; what it holds stays. Takes minutes. Idempotent."""
        ...

    def note(self, tenant_id: str, day: str, generation: int, notes: Mapping[str, str]) -> None:
        """Keep short texts by name with an index; "" takes one away. Durable on return.

        They go where the index goes: with it into a snapshot, and away with it. One process notes
        at a time.
        """
        ...

    def notes(self, tenant_id: str, day: str, generation: int) -> dict[str, str]:
        """The notes of an index; none for no such index."""
        ...


class IndexName(NamedTuple):
    """One index of HOT: a tenant's day in one generation."""

    tenant_id: str
    day: str
    generation: int


@dataclass(frozen=True, slots=True)
class HotSnapshot:
    """A snapshot: its name, the indexes in it. One that is not `complete` may lack some of them."""

    name: str
    indexes: tuple[IndexName, ...]
    complete: bool


class HotSnapshots(Protocol):
    """Copies of indexes of HOT, apart from HOT. A convenience: COLD and landing can replace them.

    All methods raise `HotUnavailable`: nothing was promised.
    """

    def take(self, name: str, indexes: Sequence[IndexName]) -> HotSnapshot:
        """Copy some indexes as they are now; whole and durable on return.

        `name`: small letters, digits and `-`, not used before. What an earlier snapshot has of an
        index need not be copied again.
        """
        ...

    def snapshots(self) -> list[HotSnapshot]:
        """All snapshots, by name."""
        ...

    def restore(self, name: str, index: IndexName) -> int:
        """Bring one index back as the next generation of its day, neither read nor written.

        Returns its number. When it raises, there may be an index that is not whole: nobody reads
        it, and deleting it does no harm.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete a snapshot; what others need of it stays. Idempotent."""
        ...


# ------------------------------------------------------------------------------------- metadata


class Role(StrEnum):
    """What a credential may do."""

    EDGE = "edge"
    INVESTIGATOR = "investigator"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    #: An operator of the platform's own record, for hours, while nobody can sign in.
    BREAK_GLASS = "break_glass"


class UnknownDevices(StrEnum):
    """What ingest does with an event of a device that is not enrolled, or that is retired."""

    ACCEPT = "accept"
    DEAD_LETTER = "dead_letter"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A hospital group whose record is kept apart from all others.

    While it is suspended, ingest takes none of its bodies. `device_changes` counts the changes of
    its devices: as long as it is the same, so are they.
    """

    tenant_id: str
    created_ms: int
    suspended: bool
    unknown_devices: UnknownDevices = UnknownDevices.ACCEPT
    device_changes: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """A device that an operator has enrolled. `retired_ms` is 0 while it may send."""

    tenant_id: str
    device_id: str
    enrolled_ms: int
    retired_ms: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential as stored: only a hash of the secret. `revoked_ms` is 0 while it is good."""

    key_id: str
    tenant_id: str
    role: Role
    created_ms: int
    revoked_ms: int


class Metadata(Protocol):
    """Small relational facts that are not evidence: tenants, devices, credentials, edge keys.

    Everything that counts as evidence is in objects; this store can be rebuilt or re-entered.
    Every writing method is durable on return. All raise `MetadataUnavailable`.
    """

    def add_tenant(self, tenant_id: str, now_ms: int) -> Tenant:
        """Add a tenant, or return the one that is there. `ValueError` for a malformed id."""
        ...

    def tenant(self, tenant_id: str) -> Tenant:
        """One tenant. Raises `TenantUnknown`."""
        ...

    def tenants(self) -> list[Tenant]:
        """All tenants, by id."""
        ...

    def set_suspended(self, tenant_id: str, *, suspended: bool) -> Tenant:
        """Suspend a tenant or let it go on; idempotent. Raises `TenantUnknown`."""
        ...

    def set_unknown_devices(self, tenant_id: str, policy: UnknownDevices) -> Tenant:
        """Choose what becomes of events of unknown devices. Raises `TenantUnknown`."""
        ...

    def enrol_devices(self, tenant_id: str, device_ids: Iterable[str], now_ms: int) -> int:
        """Enrol devices, all or none; a retired one may send again. Returns how many are new.

        Raises `TenantUnknown`, `ValueError` for a malformed device id.
        """
        ...

    def retire_device(self, tenant_id: str, device_id: str, now_ms: int) -> Device:
        """Let a device send no more; idempotent: the first time counts.

        Raises `TenantUnknown`, `DeviceUnknown`.
        """
        ...

    def devices(self, tenant_id: str) -> list[Device]:
        """All devices ever enrolled in a tenant, retired ones included, by id."""
        ...

    def add_api_key(self, tenant_id: str, role: Role, now_ms: int) -> tuple[ApiKey, str]:
        """Make a credential; the second value is the secret, shown once, stored only hashed.

        Raises `TenantUnknown`.
        """
        ...

    def api_key_of(self, secret: str) -> ApiKey | None:
        """The good (not revoked) credential that this secret belongs to, or None."""
        ...

    def api_keys(self) -> list[ApiKey]:
        """All credentials, by creation."""
        ...

    def revoke_api_key(self, key_id: str, now_ms: int) -> None:
        """Revoke a credential. Raises `KeyUnknown`. Idempotent."""
        ...

    def add_edge_key(self, tenant_id: str, public_key: bytes, now_ms: int) -> str:
        """Register the 32-byte Ed25519 public key of a tenant's edge; returns its key id.

        Idempotent. Raises `TenantUnknown`, `ValueError` for another length.
        """
        ...

    def edge_keys(self, tenant_id: str) -> dict[str, bytes]:
        """Key id -> public key of a tenant's edges."""
        ...


# --------------------------------------------------------------------------------------- callers


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: by an API key, or by a token of a provider, which has a `subject`.

    `key_id` is the API key's; for a token 16 hex digits that stand for issuer and subject.
    """

    key_id: str
    tenant_id: str
    role: Role
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in under way: where the browser goes, and what has to be remembered until it is back.

    `state` comes back with the browser; `verifier` proves to the provider that it is us.
    """

    url: str
    state: str
    verifier: str


class SignIn(Protocol):
    """Signing people in at an identity provider, by way of their browser. Calls block."""

    def begin(self) -> Begun:
        """Begin one. Raises `TokensUnavailable` while the provider does not answer."""
        ...

    def token(self, code: str, verifier: str) -> str:
        """The access token that a code is worth. Raises `AccessDenied`, `TokensUnavailable`."""
        ...

    def close(self) -> None:
        """Close all connections. Idempotent."""
        ...


class Tokens(Protocol):
    """Bearer tokens of an identity provider: whom one speaks for. Safe from several threads."""

    def check(self, token: str) -> Caller:
        """Whom a good token speaks for. May block for seconds where its key is not known yet.

        A token whose key is known is judged also while the provider is away. Raises `AccessDenied`
        with what is wrong with it, `TokensUnavailable` when nobody can tell now.
        """
        ...

    def close(self) -> None:
        """Ask no more. Idempotent."""
        ...


# ---------------------------------------------------------------------------------------- limits


class Limits(Protocol):
    """How many events each tenant may send: one budget for all processes. Safe from threads."""

    def take(self, tenant_id: str, events: int) -> float:
        """Take so many events of a tenant's budget: 0.0, or seconds to wait (nothing was taken).

        A budget grows steadily up to a burst; a body larger than what is there is let in once the
        budget is full, and leaves it owing. Never raises: a shared budget that does not answer is
        stood in for by a stricter one of this process.
        """
        ...

    def trouble(self) -> str:
        """Why the shared budget is stood in for now, or ""."""
        ...

    def close(self) -> None:
        """Release what is open. Idempotent."""
        ...


# ----------------------------------------------------------------------------------------- keys


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 key that signed or signs. `key_id` = first 16 hex of SHA-256(public key).

    Signatures over days sealed at or after `revoked_ms` do not count; 0 = not revoked.
    """

    key_id: str
    public_key: bytes
    purpose: str
    created_ms: int
    revoked_ms: int
    active: bool


@dataclass(frozen=True, slots=True)
class DataKey:
    """A fresh 256-bit key for one file, and the same key wrapped, to be stored beside the bytes."""

    secret: bytes
    wrapped: bytes


class Keys(Protocol):
    """Signing keys by purpose (`manifest`, `edge`), and data keys. Signing keys stay in the port.

    Every writing method is durable on return. All raise `KeysUnavailable`.
    """

    def sign(self, purpose: str, message: bytes) -> tuple[str, bytes]:
        """(key id, 64-byte Ed25519 signature) by the active key. Raises `KeyUnknown`."""
        ...

    def public_keys(self) -> list[PublicKey]:
        """Every key ever made here, revoked ones included, oldest first."""
        ...

    def new(self, purpose: str, now_ms: int) -> PublicKey:
        """Make a key and use it for this purpose from now on; older ones stay good to verify.

        Raises `ValueError` for another purpose.
        """
        ...

    def revoke(self, key_id: str, now_ms: int) -> PublicKey:
        """Stop trusting what this key signs from now on; it is not active any more.

        Idempotent: the first revocation counts. Raises `KeyUnknown`.
        """
        ...

    def new_data_key(self) -> DataKey:
        """A fresh data key (for a spool segment), wrapped by a key that stays in the port.

        The wrapping key is made when there is none.
        """
        ...

    def open_data_key(self, wrapped: bytes) -> bytes:
        """The 32 secret bytes of a wrapped data key. Raises `KeyUnknown` for any other bytes."""
        ...


# ---------------------------------------------------------------------------------------- spool


class Full(StrEnum):
    """What a full spool may do with the entries of a class.

    `refuse_new`: what is stored stays, new ones are refused when nothing else may go.
    `drop_oldest`: its oldest entries may be given up to make room for any new one.
    """

    REFUSE = "refuse_new"
    DROP = "drop_oldest"


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Bounds of a spool. `policy` is by event class; a class that is not named is `REFUSE`.

    `segment_bytes` is a segment's usual size; an eighth of `max_bytes` when that is less.
    """

    max_bytes: int
    max_hours: float
    policy: Mapping[str, Full]
    segment_bytes: int = 2 << 20


class NewEntry(NamedTuple):
    """Bytes of one device to keep, `count` events in all, of one class. Opaque to the spool."""

    device_id: str
    event_class: str
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody asks an entry for
    data: bytes


class Entry(NamedTuple):
    """A kept entry. `position` is a running number over all openings, never given twice."""

    position: int
    appended_ms: int
    device_id: str
    event_class: str
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody asks an entry for
    data: bytes


class Dropped(NamedTuple):
    """What a full spool gave up of one segment: entries that were not released. Declare them."""

    first: int
    entries: tuple[Entry, ...]


class SetAside(NamedTuple):
    """A file that is kept for people because part of it is not what was written.

    `first`..`next` are the positions that cannot be read (at most; `reason` says why).
    """

    file: str
    first: int
    next: int
    reason: str


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What a spool holds and how its commits went since it was opened.

    `oldest_ms` is 0 and `hours` 0.0 when it is empty. `committed_entries / commits` tells how well
    appends share an fsync; `fsync_seconds / commits` what one takes.
    """

    bytes: int
    entries: int
    segments: int
    oldest_ms: int
    hours: float
    encrypted: bool
    set_aside: tuple[SetAside, ...]
    commits: int
    committed_entries: int
    fsync_seconds: float


class Spool(Protocol):
    """The edge's disk: entries that are durable, in order, until they are released. Thread safe."""

    def append(self, entries: Sequence[NewEntry]) -> tuple[list[int], list[Dropped]]:
        """Keep entries; durable on return. Their positions, ascending, and what was dropped.

        Concurrent callers share one fsync. What was dropped is not read any more, but its bytes
        stay until `declared`: after a restart before that it is there again, and is dropped again.
        Raises `SpoolFull` (nothing stored), `SpoolUnavailable` (nothing promised, though part may
        be there), `ValueError` for an entry that is too large (nothing stored).
        """
        ...

    def declared(self, dropped: Sequence[Dropped]) -> None:
        """The loss of these is on record (its event is durable): their bytes may go."""
        ...

    def read(self, position: int, max_bytes: int) -> list[Entry]:
        """Durable entries from `position` on, at least one if there is any, about `max_bytes` long.

        Never blocks for new ones; skips holes; an empty list means "at the end". Released entries
        may be among them. Raises `SpoolUnavailable`.
        """
        ...

    def bounds(self) -> tuple[int, int]:
        """(first kept position, next position to be given)."""
        ...

    def release(self, runs: Iterable[tuple[int, int]]) -> None:
        """These half-open runs of positions are archived: they need not be kept. Durable on return.

        Segments that are wholly released are deleted. Raises `SpoolUnavailable`: the same call may
        pass later; a lost mark only means that something is sent again.
        """
        ...

    def released(self) -> list[tuple[int, int]]:
        """Released (and unreadable) runs not below the first kept position, ascending, apart."""
        ...

    def status(self) -> SpoolStatus:
        """Figures; cheap."""
        ...

    def close(self) -> None:
        """Close the files and let another process open the folder. Idempotent."""
        ...


# ------------------------------------------------------------------------------------- platform


@dataclass(frozen=True, slots=True)
class EdgePorts:
    """What an edge-gateway has: it stands in a hospital, apart from the platform."""

    clock: Clock
    keys: Keys
    spool: Spool


@dataclass(frozen=True, slots=True)
class Platform:
    """All ports, wired once (`wiring.py`). No code path knows which profile it runs in.

    `tokens`: None without an identity provider. `limits`: None without any limit. `log_errors`:
    errors that the log's clients met in this process so far, by the log's names; never blocks.
    `work`: a folder of this machine for what may be lost at any time; None without one.
    """

    clock: Clock
    log: Log
    objects: Objects
    hot: Hot
    metadata: Metadata
    keys: Keys
    close: Callable[[], None]
    tokens: Tokens | None = None
    limits: Limits | None = None
    snapshots: HotSnapshots | None = None
    log_errors: Callable[[], Mapping[str, int]] = dict
    work: Path | None = None


# --------------------------------------------------------------------------------------- probes


@dataclass(frozen=True, slots=True)
class HotState:
    """How a search cluster is. `free` is the free part of each node's disk, 0 to 1.

    `status`: `green`, `yellow` (copies are missing), `red` (documents are). `blocked`: indexes that
    take no documents.
    """

    status: str
    nodes: int
    blocked: int
    free: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class DagsterState:
    """How Dagster is. Ages are in seconds of real time.

    `heartbeat_ages`: of each daemon that is needed. `failed`: runs of each job that failed within
    the last hour. `ticks_failed`: whether the last tick of each sensor and schedule that is on
    failed. `stale`: whether each asset with a freshness policy has not come for too long.
    """

    heartbeat_ages: Mapping[str, float]
    queued: int
    queue_age_seconds: float
    failed: Mapping[str, int]
    ticks_failed: Mapping[str, bool]
    stale: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Probes:
    """Questions to servers that no port asks; None where there is no such server.

    Each answers within seconds or raises an `AuditPlatformError`. `log_write` writes one record of
    its own with all copies and gives "" or the log's name of why not. `others` are asked whether
    they are there.
    """

    close: Callable[[], None]
    hot: Callable[[], HotState] | None = None
    log_write: Callable[[], str] | None = None
    others: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    dagster: Callable[[], DagsterState] | None = None
