"""The platform with what queries remember: manifests, range records, Parquet footers, all bounded.

Everything remembered is under a version id, and a version never changes, so nothing remembered can
be out of date. Belongs here: reading those and keeping them. Does not: which of them a question
needs (`scope.py`), rows (`cold.py`).
Source: design section 5; issue "One machine, whole" (each service within 350 MB).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from audit_platform.errors import MetadataUnavailable, ObjectNotFound, RecordMalformed
from audit_platform.operations.claims import read_claim
from audit_platform.operations.coverage import parse_record, range_records
from audit_platform.operations.query.footers import Footer, read_footer
from audit_platform.operations.query.kept import Kept
from audit_platform.ports import Platform, PublicKey
from audit_platform.record import layout, signing
from audit_platform.record.decision import Approval, DryRun, Proposal, Replayed
from audit_platform.record.manifest import InputRange, Manifest, Part
from audit_platform.record.ranges import Generation, RangeObject, RangeRecord
from audit_platform.record.spans import ChainSpan

#: File bytes of manifests kept parsed, about three times as much in memory. A day of 10,000
#: devices has 3 MB.
MANIFEST_BYTES: Final = 24 * 1024 * 1024
#: Manifests of which the facts are kept: two years of a hundred tenants, about 1 KB each.
MANIFEST_FACTS: Final = 80_000
#: Serialized bytes of Parquet footers kept, about three times as much in memory.
FOOTER_BYTES: Final = 24 * 1024 * 1024
#: Spans of chains kept, about 0.5 KB each.
SPANS: Final = 20_000
#: Bytes of records of decisions about dead letters kept parsed; of 5,000 lines one has 1 MB.
DECISION_BYTES: Final = 16 * 1024 * 1024
#: Range records kept: a week of minutes of two partitions, about 1 KB each.
RANGES: Final = 20_000


#: Beyond every offset.
_ALL: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class DayFacts:
    """A manifest without its chains: what finding rows needs.

    `signed`: its signature is by the key that it names, known here. `problem` says why a file is
    no manifest; the other fields but `number` and the place are empty then.
    """

    key: str
    version_id: str
    number: int
    day: str = ""
    sha256: str = ""
    root: str = ""
    sealed_ms: int = 0
    key_id: str = ""
    signed: bool = False
    rows: int = 0
    undecodable: int = 0
    parts: tuple[Part, ...] = ()
    inputs: tuple[InputRange, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Day:
    """A tenant's sealed day: the manifest that counts, and whether the day can be believed.

    Rows are read by the newest manifest that verifies, else by the newest. `covered` maps
    (generation, partition) to the offset up to which any of the day's manifests took its rows.
    """

    facts: DayFacts
    verified: bool
    covered: dict[tuple[int, int], int]
    doubtful: tuple[int, ...]

    def covered_to(self, generation: int, partition: int) -> int:
        """Rows of a partition below this offset are in the day's manifests, or doubles of those.

        Of a log generation older than all that are named everything is, of a younger one nothing.
        """
        oldest = min((g for g, _ in self.covered), default=0)
        return _ALL if generation < oldest else self.covered.get((generation, partition), 0)


@dataclass(frozen=True, slots=True)
class RangeFacts:
    """A range record without its digests."""

    generation: int
    partition: int
    first_offset: int
    end_offset: int
    last_ms: int
    undecodable: int
    objects: tuple[RangeObject, ...]


#: Said with what is judged by edge keys that could not be asked for.
EDGE_KEYS_OLD: Final = (
    "metadata does not answer: in days that are not sealed, new chains and declared losses count "
    "only by edge keys that were known before"
)


@dataclass(slots=True)
class _Walk:
    """Range records of one partition from an offset on, as far as they were read."""

    start: int
    ranges: list[RangeFacts] = field(default_factory=list)


class Reader:
    """A platform to ask, for several threads at once."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._facts: Kept[DayFacts] = Kept(MANIFEST_FACTS)
        self._manifests: Kept[Manifest] = Kept(MANIFEST_BYTES)
        self._footers: Kept[Footer] = Kept(FOOTER_BYTES)
        #: Spans of devices by manifest and device, kept for `spans.py`.
        self.spans: Kept[tuple[ChainSpan, ...]] = Kept(SPANS)
        #: Records of decisions about dead letters by place, kept for `dlq/records.py`.
        self.decisions: Kept[Proposal | DryRun | Approval | Replayed | None] = Kept(DECISION_BYTES)
        self._listed: dict[str, list[tuple[str, str]]] = {}
        self._listing = threading.Lock()
        self._ranges: Kept[RangeFacts | None] = Kept(RANGES)
        self._walks: dict[tuple[str, int, int], _Walk] = {}
        self._walking = threading.Lock()
        self._generation: Generation | None = None
        self._edge_keys: dict[str, dict[str, bytes]] = {}

    def edge_keys(self, tenant_id: str) -> tuple[dict[str, bytes], str]:
        """(a tenant's edge keys, "" or why they may be old): while metadata is away, the last ones.

        Failure 21: a question about the record is answered without metadata, and says so.
        """
        try:
            self._edge_keys[tenant_id] = self.platform.metadata.edge_keys(tenant_id)
        except MetadataUnavailable:
            return self._edge_keys.get(tenant_id, {}), EDGE_KEYS_OLD
        return self._edge_keys[tenant_id], ""

    # ------------------------------------------------------------------------------- manifests

    def days(self, tenant_id: str) -> tuple[dict[str, Day], list[str]]:
        """(sealed days of a tenant, what is wrong with files that are no manifests).

        Each manifest is checked for form, name, signature and its key's revocation; the rest of a
        verification is not done here. Raises `StoreUnavailable`, `KeysUnavailable`.
        """
        trusted = {k.key_id: k for k in self.platform.keys.public_keys() if k.purpose == "manifest"}
        of_day: dict[str, list[DayFacts]] = {}
        problems: list[str] = []
        for key, version_id in self._named(tenant_id):
            facts = self._day_facts(tenant_id, key, version_id, trusted)
            if facts.problem:
                problems.append(facts.problem)
            else:
                of_day.setdefault(facts.day, []).append(facts)
        return {day: _counting(found, trusted) for day, found in of_day.items()}, problems

    def has_sealed_before(self, tenant_id: str, day: str) -> bool:
        """Whether a tenant has sealed days before this one. Raises as `days`."""
        return any(sealed < day for sealed in self.days(tenant_id)[0])

    def _named(self, tenant_id: str) -> list[tuple[str, str]]:
        """(key, version) of all manifests of a tenant; only those after the last known are listed.

        The oldest version of a key counts, and that cannot change.
        """
        with self._listing:
            if sum(map(len, self._listed.values())) > MANIFEST_FACTS:
                self._listed.clear()
            known = self._listed.setdefault(tenant_id, [])
            after = known[-1][0] if known else ""
            prefix = layout.manifests_prefix(tenant_id)
            for version in self.platform.objects.versions(prefix, after_key=after):
                if not version.is_delete_marker and version.key != after:
                    after = version.key
                    known.append((version.key, version.version_id))
            return list(known)

    def _day_facts(
        self, tenant_id: str, key: str, version_id: str, trusted: dict[str, PublicKey]
    ) -> DayFacts:
        def read() -> tuple[DayFacts, int, bool]:
            parsed = layout.parse_manifest(key)
            number = parsed[1] if parsed else 0
            try:
                m = self.manifest(key, version_id)
            except (RecordMalformed, ObjectNotFound) as e:
                return DayFacts(key, version_id, number, problem=f"{key}: {e.reason}"), 1, False
            if parsed is None or (m.tenant_id, m.number) != (tenant_id, number):
                problem = f"{key}: the manifest of another name"
                return DayFacts(key, version_id, number, problem=problem), 1, True
            known = trusted.get(m.key_id)
            good = known is not None and signing.verify(
                known.public_key, bytes.fromhex(m.signature), m.statement()
            )
            facts = DayFacts(
                key=key,
                version_id=version_id,
                number=number,
                day=m.day,
                sha256=m.sha256,
                root=m.root,
                sealed_ms=m.sealed_ms,
                key_id=m.key_id,
                signed=good,
                rows=m.rows,
                undecodable=sum(o.rows for o in m.undecodable),
                parts=m.parts,
                inputs=m.inputs,
            )
            # A key that is not known yet may be known later.
            return facts, 1, known is not None

        return self._facts.get((key, version_id), read)

    def manifest(self, key: str, version_id: str) -> Manifest:
        """One whole manifest. Raises `RecordMalformed`, `ObjectNotFound`, `StoreUnavailable`."""

        def read() -> tuple[Manifest, int, bool]:
            data = self.platform.objects.get(key, version_id)
            return Manifest.from_bytes(key, data), len(data), True

        return self._manifests.get((key, version_id), read)

    # ---------------------------------------------------------------------------------- ranges

    def generation(self) -> Generation | None:
        """The newest log generation, or None before the first. Raises as `ranges`."""
        with self._walking:
            while True:
                number = self._generation.number + 1 if self._generation else 1
                record = read_claim(self.platform.objects, layout.generation_key(number))
                if record is None:
                    return self._generation
                self._generation = Generation.from_bytes(record.key, record.data)

    def ranges(self, topic: str, generation: int, partition: int, start: int) -> list[RangeFacts]:
        """Range records of a partition that end behind offset `start`, in order.

        Raises `RecordMalformed`, `StoreUnavailable`.
        """
        with self._walking:
            walk = self._walk((topic, generation, partition), start)
            return [r for r in walk.ranges if r.end_offset > start]

    def last_range(
        self, topic: str, generation: int, partition: int, end: int
    ) -> RangeFacts | None:
        """The last range record of a partition whose log ends at `end`. Raises as `ranges`."""
        place = (topic, generation, partition)
        with self._walking:
            known = self._walks.get(place)
            walk = self._walk(place, known.start if known else end)
            return walk.ranges[-1] if walk.ranges else None

    def _walk(self, place: tuple[str, int, int], start: int) -> _Walk:
        walk = self._walks.get(place)
        if walk is None or start < walk.start or len(walk.ranges) > RANGES:
            walk = self._walks[place] = _Walk(start)
        for record in self._records_after(place, walk):
            walk.ranges.append(_range_facts(record))
        return walk

    def _records_after(self, place: tuple[str, int, int], walk: _Walk) -> Iterator[RangeRecord]:
        """Range records that the walk does not know yet."""
        if not walk.ranges:
            yield from range_records(self.platform.objects, *place, holding=walk.start)
            return
        topic, generation, partition = place
        prefix = layout.PREFIX_OF_TOPIC[topic]
        known = layout.RangeAddress(
            prefix, generation, partition, walk.ranges[-1].first_offset
        ).record_key
        folder = layout.range_records_prefix(prefix, generation, partition)
        for version in self.platform.objects.versions(folder, after_key=known):
            is_record = layout.parse_range_record(version.key) is not None
            if is_record and not version.is_delete_marker and version.key != known:
                known = version.key
                yield parse_record(known, self.platform.objects.get(known, version.version_id))

    def range_at(self, address: layout.RangeAddress) -> RangeFacts | None:
        """The range record of an address, or None. Raises as `ranges`."""

        def read() -> tuple[RangeFacts | None, int, bool]:
            claimed = read_claim(self.platform.objects, address.record_key)
            if claimed is None:
                return None, 1, False
            found = _range_facts(parse_record(claimed.key, claimed.data))
            return found, 1, True

        return self._ranges.get((address.record_key, ""), read)

    def range_over(self, generation: int, partition: int, offset: int) -> RangeFacts | None:
        """The range record of events that holds an offset, or None. Raises as `ranges`."""

        def read() -> tuple[RangeFacts | None, int, bool]:
            place = (layout.EVENTS_TOPIC, generation, partition)
            record = next(range_records(self.platform.objects, *place, holding=offset), None)
            if record is None or not record.first_offset <= offset < record.end_offset:
                return None, 1, False
            return _range_facts(record), 1, True

        return self._ranges.get((f"g{generation}/p{partition}", str(offset)), read)

    # --------------------------------------------------------------------------------- footers

    def footer(self, key: str, version_id: str) -> Footer:
        """The footer of a Parquet object. Raises `pa.ArrowException`, `ObjectNotFound`, ..."""

        def read() -> tuple[Footer, int, bool]:
            with self.platform.objects.open(key, version_id) as file:
                found = read_footer(file)
            return found, found.metadata.serialized_size, True

        return self._footers.get((key, version_id), read)


def _range_facts(record: RangeRecord) -> RangeFacts:
    return RangeFacts(
        record.generation,
        record.partition,
        record.first_offset,
        record.end_offset,
        record.last_ms,
        record.undecodable,
        record.objects,
    )


def _counting(found: list[DayFacts], trusted: dict[str, PublicKey]) -> Day:
    """The day of all its manifests, by number."""
    good = [f for f in found if f.signed and _not_revoked(f, trusted)]
    counts = (good or found)[-1]
    covered: dict[tuple[int, int], int] = {}
    for facts in good or found:
        for i in facts.inputs:
            if i.topic == layout.EVENTS_TOPIC:
                place = (i.generation, i.partition)
                covered[place] = max(covered.get(place, 0), i.end_offset)
    doubtful = tuple(f.number for f in found if f not in good)
    return Day(counts, bool(good), covered, doubtful)


def _not_revoked(facts: DayFacts, trusted: dict[str, PublicKey]) -> bool:
    key = trusted.get(facts.key_id)
    return key is not None and (not key.revoked_ms or facts.sealed_ms < key.revoked_ms)
