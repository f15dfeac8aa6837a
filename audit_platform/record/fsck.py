"""Is this record whole and unchanged? Answered from bytes and public keys alone, offline.

`check` runs the numbered steps of `report.py` over a `Source` (a folder, a bucket). It needs no
service, no metadata, no private key, and it trusts nothing that is not under a signature that it
verified itself. Belongs here: the steps over manifests and days. Does not: a part's rows
(`partcheck.py`), chain verdicts (`chain.py`), reading folders (`adapters/`), printing
(`commands/`).
Source: design section 3 (verdicts), 5 (COLD, manifest, proof for outsiders).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit_platform.errors import AuditPlatformError, ObjectNotFound, RecordMalformed
from audit_platform.record import layout, merkle, signing
from audit_platform.record.chain import (
    INFORMATIONAL,
    ChainSpan,
    ChainWalker,
    DayChains,
    Finding,
    Verdict,
    judge_links,
)
from audit_platform.record.edges import edge_facts
from audit_platform.record.manifest import Manifest, NamedObject, Part, previous_hash
from audit_platform.record.partcheck import PartCheck, check_part
from audit_platform.record.quarantinecheck import check_quarantine
from audit_platform.record.report import Entry, Report, Step

_READ_BYTES: Final = 4 * 1024 * 1024

#: Chain findings of a day that are listed one by one; more are counted. A day in pieces would
#: otherwise fill the report with what its first lines already say.
MAX_CHAIN_ENTRIES: Final = 100


class Source(Protocol):
    """Where the record is read from."""

    def keys(self, prefix: str) -> Iterable[str]:
        """Keys under a prefix that hold an object, in order."""
        ...

    def open(self, key: str, version_id: str) -> AbstractContextManager[BinaryIO]:
        """A seekable reader; `version_id` "" is the oldest version. Raises `ObjectNotFound`."""
        ...

    def hidden(self, key: str) -> str:
        """What lies over the oldest version of a key (a delete marker, other bytes), or ""."""
        ...


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A manifest key to check with, 32 bytes. Days sealed from `revoked_ms` on do not count."""

    key_id: str
    public_key: bytes
    revoked_ms: int = 0


@dataclass(frozen=True, slots=True)
class TrustedHead:
    """A manifest that somebody outside saw: number and hex SHA-256 of its file."""

    tenant_id: str
    number: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What to look at. None: everything. A day limits reading of objects, not of manifests."""

    tenants: frozenset[str] | None = None
    day: str | None = None


Progress = Callable[[str, int, int], None]


def check(
    source: Source,
    keys: Sequence[TrustedKey],
    heads: Sequence[TrustedHead] = (),
    scope: Scope = Scope(),
    progress: Progress = lambda _what, _done, _total: None,
) -> Report:
    """Run all steps; never raises for bad bytes. `progress(what, done, total)` as objects go by."""
    report = Report()
    manifests = _manifest_keys(source, scope)
    # Step 1: a check that read nothing has failed.
    if not keys:
        report.entries.append(Entry(Step.READ, "no public key was given: nothing can be trusted"))
        return report
    if not manifests:
        report.entries.append(Entry(Step.READ, "no manifest was found: zero objects were read"))
        return report
    trusted = {k.key_id: k for k in keys}
    by_tenant = {h.tenant_id: h for h in heads}
    for tenant_id in sorted(manifests.keys() | {t for t in by_tenant if _wanted(scope, t)}):
        _Tenant(source, trusted, report, scope, tenant_id, progress).check(
            manifests.get(tenant_id, []), by_tenant.get(tenant_id)
        )
    report.tenants = len(manifests)
    report.fresh = bool(manifests) and all(t in by_tenant for t in manifests)
    if not report.fresh:
        text = "freshness not proved: no trusted head was given for every tenant"
        report.entries.append(Entry(Step.HEAD, text, note=True))
    return report


def _wanted(scope: Scope, tenant_id: str) -> bool:
    return scope.tenants is None or tenant_id in scope.tenants


def _manifest_keys(source: Source, scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in source.keys(f"{layout.COLD}/"):
        parsed = layout.parse_manifest(key)
        if parsed is not None and _wanted(scope, parsed[0]):
            found.setdefault(parsed[0], []).append(key)
    return found


class _Tenant:
    """The steps for one tenant."""

    def __init__(
        self,
        source: Source,
        trusted: dict[str, TrustedKey],
        report: Report,
        scope: Scope,
        tenant_id: str,
        progress: Progress,
    ) -> None:
        self.source, self.trusted, self.report = source, trusted, report
        self.scope, self.tenant_id, self.progress = scope, tenant_id, progress

    def check(self, keys: list[str], head: TrustedHead | None) -> None:
        """Steps 2 to 13."""
        signed = self._manifests(keys)
        counting = self._days(signed)
        self.report.days[self.tenant_id] = sorted(counting)
        for done, day in enumerate(sorted(counting)):
            self.progress(f"{self.tenant_id} {day}", done, len(counting))
            if self.scope.day in (None, day):
                self._day(counting[day])
        self._unnamed(signed)
        self._links([counting[day] for day in sorted(counting)])
        self._head(signed, head)

    def _add(self, step: Step, message: str, **more: object) -> None:
        self.report.entries.append(
            Entry(step, message, tenant_id=self.tenant_id, **more)  # type: ignore[arg-type] # fields of Entry by name
        )

    # --------------------------------------------------------------------------- manifests

    def _manifests(self, keys: list[str]) -> list[Manifest]:
        """Steps 2, 3 and 4: those of good form and signature, by number."""
        good: list[Manifest] = []
        before: Manifest | None = None
        expected = 1
        for key in keys:
            manifest = self._manifest(key)
            number = (layout.parse_manifest(key) or ("", 0))[1]
            for missing in range(expected, number):
                name = layout.manifest_key(self.tenant_id, missing)
                self._add(Step.SEQUENCE, f"manifest {missing} is missing", key=name)
            holes = number != expected
            expected = number + 1
            if manifest is None:
                before = None
                continue
            linked = holes or (before is None and number > 1)
            if not linked and manifest.previous != previous_hash(before):
                text = f"manifest {number} does not name the manifest before it"
                self._add(Step.SEQUENCE, text, key=key, day=manifest.day)
            before = manifest
            if self._signature(key, manifest):
                good.append(manifest)
        return good

    def _manifest(self, key: str) -> Manifest | None:
        # Step 2: form, and the name it stands under.
        try:
            data = self._read(key, "")
            manifest = Manifest.from_bytes(key, data)
        except (AuditPlatformError, OSError) as e:
            self._add(Step.FORM, str(e), key=key)
            return None
        self.report.manifests += 1
        over = self.source.hidden(key)
        if over:
            self._add(Step.OBJECTS, over, key=key, verdict="hidden", day=manifest.day)
        if layout.manifest_key(manifest.tenant_id, manifest.number) != key:
            self._add(Step.FORM, "the manifest belongs under another name", key=key)
            return None
        return manifest

    def _signature(self, key: str, manifest: Manifest) -> bool:
        # Step 3: a known manifest key that was not revoked when the day was sealed.
        known = self.trusted.get(manifest.key_id)
        if known is None:
            text = f"signed by key {manifest.key_id}, which is not known"
            self._add(Step.SIGNATURE, text, key=key, day=manifest.day)
            return False
        if known.revoked_ms and manifest.sealed_ms >= known.revoked_ms:
            text = f"signed by key {manifest.key_id} after it was revoked"
            self._add(Step.SIGNATURE, text, key=key, day=manifest.day)
            return False
        signature = bytes.fromhex(manifest.signature)
        if not signing.verify(known.public_key, signature, manifest.statement()):
            self._add(Step.SIGNATURE, "the signature is wrong", key=key, day=manifest.day)
            return False
        return True

    def _days(self, signed: list[Manifest]) -> dict[str, Manifest]:
        """Step 5: the counting manifest of each day (the highest number), and missing days."""
        counting: dict[str, Manifest] = {}
        for manifest in signed:
            older = counting.get(manifest.day)
            if manifest.revision != (older.revision + 1 if older else 1):
                text = f"revision {manifest.revision} does not follow on {manifest.day}"
                self._add(Step.DAYS, text, day=manifest.day)
            counting[manifest.day] = manifest
        days = sorted(counting)
        for day, following in pairwise(days):
            missing = layout.next_day(day)
            while missing < following:
                self._add(Step.DAYS, f"{missing} has no manifest", day=missing)
                missing = layout.next_day(missing)
        return counting

    # --------------------------------------------------------------------------------- day

    def _day(self, manifest: Manifest) -> None:
        """Steps 6 to 10 and 12 for one day."""
        walker = ChainWalker()
        findings: list[Finding] = []
        signed: list[bytes] = []
        sound = True
        for part in manifest.parts:
            check = self._part(manifest, part, walker)
            sound = sound and check is not None and check.sound
            if check is not None:
                findings += check.chain_findings
                signed += check.signed
        self._roots(manifest)
        if sound:
            self._chains(manifest, walker.finish(), findings)
            self._edges(manifest, signed)
        for o in (*manifest.quarantine, *manifest.undecodable):
            self._object(manifest, o)
        for text, link in check_quarantine(self.source.open, manifest):
            self._add(
                Step.QUARANTINE,
                text,
                day=manifest.day,
                device_id=link.device_id,
                chain_id=link.chain_id,
                sequence=link.sequence_number,
            )

    def _object(self, manifest: Manifest, named: NamedObject) -> bool:
        """Step 6. True when the object can be read at all."""
        day, key = manifest.day, named.key
        try:
            with self.source.open(key, named.version_id) as file:
                size, sha256 = _digest(file)
        except ObjectNotFound:
            self._add(Step.OBJECTS, "a named object is missing", day=day, key=key)
            return False
        except (AuditPlatformError, OSError) as e:
            self._add(Step.OBJECTS, f"a named object cannot be read: {e}", day=day, key=key)
            return False
        self.report.objects += 1
        self.report.bytes += size
        if size != named.size:
            text = f"the object has {size} bytes, its manifest says {named.size}"
            self._add(Step.OBJECTS, text, day=day, key=key)
        if sha256 != named.sha256:
            text = f"the object's SHA-256 is {sha256}, its manifest says {named.sha256}"
            self._add(Step.OBJECTS, text, day=day, key=key)
        over = self.source.hidden(key)
        if over:
            self._add(Step.OBJECTS, over, day=day, key=key, verdict="hidden")
        return True

    def _part(self, manifest: Manifest, part: Part, walker: ChainWalker) -> PartCheck | None:
        """Steps 6, 7 and 8 for one part."""
        day, key = manifest.day, part.object.key
        if not self._object(manifest, part.object):
            return None
        with self.source.open(key, part.object.version_id) as file:
            check = check_part(file, self.tenant_id, walker)
        self.report.rows += check.rows
        for p in check.problems:
            self._add(
                Step.ROWS,
                p.reason,
                day=day,
                key=key,
                row=p.row,
                device_id=p.device_id,
                chain_id=p.chain_id,
                sequence=p.sequence,
            )
        if check.bad_rows > len(check.problems):
            text = f"{check.bad_rows} rows in all are wrong; the first are named"
            self._add(Step.ROWS, text, day=day, key=key)
        if check.rows != part.object.rows:
            text = f"the part has {check.rows} rows, its manifest says {part.object.rows}"
            self._add(Step.ROWS, text, day=day, key=key)
        self._part_roots(manifest, part, check)
        return check

    def _part_roots(self, manifest: Manifest, part: Part, check: PartCheck) -> None:
        # Step 8: each row group's own root tells where a part differs.
        if not check.whole:
            return
        if check.root.hex() == part.root and [r.hex() for r in check.row_group_roots] == list(
            part.row_group_roots
        ):
            return
        groups = [
            i
            for i, (got, said) in enumerate(
                zip(check.row_group_roots, part.row_group_roots, strict=False)
            )
            if got.hex() != said
        ]
        text = f"the part's Merkle root is not the signed one; row groups that differ: {groups}"
        self._add(Step.ROOTS, text, day=manifest.day, key=part.object.key)

    def _roots(self, manifest: Manifest) -> None:
        roots = [bytes.fromhex(p.root) for p in manifest.parts]
        if merkle.day_root(roots).hex() != manifest.root:
            text = "the day's Merkle root does not follow from its parts' roots"
            self._add(Step.ROOTS, text, day=manifest.day)
        if sum(p.object.rows for p in manifest.parts) != manifest.rows:
            self._add(Step.ROOTS, "the day's rows are not the sum of its parts'", day=manifest.day)

    def _chains(
        self, manifest: Manifest, spans: Sequence[ChainSpan], findings: Sequence[Finding]
    ) -> None:
        """Step 9: the manifest states what its rows show, so its word is checked against them."""
        if tuple(spans) != manifest.chains:
            said = {(c.device_id, c.chain_id): c for c in manifest.chains}
            seen = {(c.device_id, c.chain_id): c for c in spans}
            for device, chain in sorted(said.keys() | seen.keys()):
                if said.get((device, chain)) != seen.get((device, chain)):
                    text = "the rows do not show what the manifest says of this chain"
                    self._add(Step.CHAINS, text, day=manifest.day, device_id=device, chain_id=chain)
        # Gaps are judged with the other days (step 11): a late event may stand in a later one.
        faults = [f for f in findings if f.verdict not in (*INFORMATIONAL, Verdict.GAP)]
        self._chain_entries(Step.CHAINS, manifest.day, faults)

    def _chain_entries(self, step: Step, day: str, findings: Sequence[Finding]) -> None:
        for f in findings[:MAX_CHAIN_ENTRIES]:
            self._add(
                step,
                f"{f.verdict}: {f.detail}",
                note=f.verdict in INFORMATIONAL,
                day=day,
                verdict=str(f.verdict),
                row=f.row,
                device_id=f.device_id,
                chain_id=f.chain_id,
                sequence=f.sequence,
            )
        if len(findings) > MAX_CHAIN_ENTRIES:
            self._add(step, f"{len(findings)} chain findings in all", day=day)

    def _edges(self, manifest: Manifest, signed: Sequence[bytes]) -> None:
        # Step 12: only a bad signature or an unknown key is a finding.
        facts = edge_facts(signed, manifest.edge_keys)
        for p in facts.problems:
            self._add(
                Step.EDGES,
                p.reason,
                day=manifest.day,
                device_id=p.device_id,
                chain_id=p.chain_id,
                sequence=p.sequence,
            )
        said = (list(manifest.starts), list(manifest.losses), set(manifest.edge_keys))
        if said != (facts.starts, facts.losses, facts.key_ids):
            text = "the rows do not show the chain starts and losses that the manifest lists"
            self._add(Step.EDGES, text, day=manifest.day)

    # ------------------------------------------------------------------------ across days

    def _unnamed(self, signed: Iterable[Manifest]) -> None:
        """A note of step 6: objects that no manifest names are orphans and mean nothing."""
        named = {p.object.key for m in signed for p in m.parts}
        for key in self.source.keys(f"{layout.COLD}/tenant={self.tenant_id}/"):
            parsed = layout.parse_part(key)
            if key in named or layout.parse_manifest(key) is not None:
                continue
            if self.scope.day is not None and (parsed is None or parsed[1] != self.scope.day):
                continue
            self._add(Step.OBJECTS, "no manifest names this object", key=key, note=True)

    def _links(self, counting: Sequence[Manifest]) -> None:
        """Step 11: over the manifests as they now stand."""
        days = [
            DayChains(m.day, m.chains, [q.link for q in m.links], m.losses, m.starts)
            for m in counting
        ]
        judged = judge_links(days, is_event=lambda d, h: self._is_event(counting, d, h))
        by_day: dict[str, list[Finding]] = {}
        for f in judged.findings:
            if self.scope.day in (None, f.day):
                by_day.setdefault(f.day, []).append(f)
        for day, findings in by_day.items():
            self._chain_entries(Step.LINKS, day, findings)
        for loss in judged.over_declared:
            self._add(
                Step.LINKS,
                f"a loss declares sequences {loss.first} to {loss.last}, some of which are held",
                note=True,
                device_id=loss.device_id,
                chain_id=loss.chain_id,
            )

    def _is_event(self, counting: Sequence[Manifest], device_id: str, event_hash: str) -> bool:
        """Is this the hash of any sealed event of a device? Asked for restored edges only."""
        wanted = (pc.field("device_id") == device_id) & (
            pc.field("event_hash") == pa.scalar(bytes.fromhex(event_hash), pa.binary(32))
        )
        for part in (p for m in counting for p in m.parts):
            if not part.first_device <= device_id <= part.last_device:
                continue
            try:
                with self.source.open(part.object.key, part.object.version_id) as file:
                    found = pq.read_table(file, columns=["event_hash"], filters=wanted)
            except (AuditPlatformError, pa.ArrowException, OSError, ValueError):
                continue  # step 6 or 7 has named it
            if found.num_rows:
                return True
        return False

    def _head(self, signed: Sequence[Manifest], head: TrustedHead | None) -> None:
        """Step 13: completeness up to a head that came from outside this copy."""
        newest = signed[-1] if signed else None
        if newest is not None:
            self.report.heads[self.tenant_id] = (newest.number, newest.sha256)
        if head is None:
            return
        held = next((m for m in signed if m.number == head.number), None)
        if held is None:
            text = f"manifest {head.number}, seen by others, is not here (or not valid)"
            self._add(Step.HEAD, text, verdict="truncated")
        elif held.sha256 != head.sha256:
            text = f"manifest {head.number} is {held.sha256}; others saw {head.sha256}"
            self._add(Step.HEAD, text, day=held.day, verdict="truncated")

    def _read(self, key: str, version_id: str) -> bytes:
        with self.source.open(key, version_id) as file:
            return file.read()


def _digest(file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(file):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_READ_BYTES):
        yield chunk


def parse_head(text: str) -> TrustedHead:
    """`tenant:number:sha256` as given on a command line. Raises `RecordMalformed`."""
    tenant, _, rest = text.partition(":")
    number, _, sha256 = rest.partition(":")
    if not (layout.TENANT_PATTERN.fullmatch(tenant) and number.isdigit() and len(sha256) == 64):  # noqa: PLR2004 - hex digits of SHA-256
        raise RecordMalformed("trusted head", text, "wanted tenant:number:sha256")
    return TrustedHead(tenant, int(number), sha256)
