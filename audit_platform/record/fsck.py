"""Is this record whole and unchanged? Answered from bytes and public keys alone, offline.

`check` runs the numbered steps of `report.py` over a `Source` (a folder, a bucket). It needs no
service, no metadata, no private key, and it trusts nothing that is not under a signature that it
verified itself. Belongs here: the steps over manifests and days. Does not: a part's rows
(`partcheck.py`), chain verdicts (`chain.py`), reading folders (`adapters/`), printing
(`commands/`).
Source: design section 3 (verdicts), 5 (COLD, manifest, proof for outsiders).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from audit_platform.errors import AuditPlatformError, RecordMalformed
from audit_platform.record import layout, signing
from audit_platform.record.chain import (
    DayChains,
    Finding,
    judge_links,
)
from audit_platform.record.daycheck import DayCheck, Source, chain_entries
from audit_platform.record.manifest import Manifest, previous_hash
from audit_platform.record.parquet import row_groups_of
from audit_platform.record.report import Entry, Report, Step
from audit_platform.record.revisions import check_revisions


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


def _day_said(data: bytes) -> str:
    """The day that a malformed manifest says it is of, or "": only good to name it by."""
    try:
        said = orjson.loads(data)["day"]
        return layout.day_of(layout.day_start_ms(said))
    except (ValueError, TypeError, KeyError, OverflowError):
        return ""


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
        #: Days of manifests that do not count, as they say ("" where they do not even say that).
        self._not_valid: list[str] = []

    def check(self, keys: list[str], head: TrustedHead | None) -> None:
        """Steps 2 to 14."""
        signed = self._manifests(keys)
        counting = self._days(signed)
        self.report.days[self.tenant_id] = sorted(counting)
        for done, day in enumerate(sorted(counting)):
            self.progress(f"{self.tenant_id} {day}", done, len(counting))
            if self.scope.day in (None, day):
                DayCheck(self.source, self.report, counting[day]).run()
                check_revisions(self.source, self.report, [m for m in signed if m.day == day])
        self._unnamed(signed)
        self._links([counting[day] for day in sorted(counting)])
        self._head(signed, head)

    def _add(self, step: Step, message: str, **more: object) -> None:
        # When one day is asked for, what is wrong with the manifest of another is told, no more.
        day = more.get("day", "")
        is_other = self.scope.day is not None and day not in ("", self.scope.day)
        note = bool(more.pop("note", False)) or (is_other and step is not Step.HEAD)
        self.report.entries.append(
            Entry(step, message, note=note, tenant_id=self.tenant_id, **more)  # type: ignore[arg-type] # fields of Entry by name
        )

    # --------------------------------------------------------------------------- manifests

    def _manifests(self, keys: list[str]) -> list[Manifest]:
        """Steps 2, 3 and 4: those of good form and signature, by number."""
        good: list[Manifest] = []
        before: Manifest | None = None
        is_before_good = False
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
            is_good = self._signature(key, manifest)
            linked = holes or (before is None and number > 1)
            if not linked and manifest.previous != previous_hash(before):
                # Of the two the one whose signature is wrong is the one that was changed.
                changed = before if before is not None and is_good and not is_before_good else None
                blamed = changed or manifest
                text = f"manifest {number} does not name the manifest before it"
                name = layout.manifest_key(self.tenant_id, blamed.number)
                self._add(Step.SEQUENCE, text, key=name, day=blamed.day)
            before, is_before_good = manifest, is_good
            if is_good:
                good.append(manifest)
            else:
                self._not_valid.append(manifest.day)
        return good

    def _manifest(self, key: str) -> Manifest | None:
        # Step 2: form, and the name it stands under.
        data = b""
        try:
            data = self._read(key, "")
            manifest = Manifest.from_bytes(key, data)
        except (AuditPlatformError, OSError) as e:
            self._not_valid.append(_day_said(data))
            self._add(Step.FORM, str(e), key=key, day=_day_said(data))
            return None
        self.report.manifests += 1
        over = self.source.hidden(key)
        if over:
            self._add(Step.OBJECTS, over, key=key, verdict="hidden", day=manifest.day)
        if layout.manifest_key(manifest.tenant_id, manifest.number) != key:
            self._add(Step.FORM, "the manifest belongs under another name", key=key)
            return None
        # A revoked key must not sign later days by giving an earlier time of sealing.
        if manifest.sealed_ms < layout.day_end_ms(manifest.day):
            text = "the manifest says that it was sealed before its day was over"
            self._add(Step.FORM, text, key=key, day=manifest.day)
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
            if self.scope.day not in (None, f.day):
                continue
            if self._is_open(f):
                text = f"{f.verdict}: {f.detail}; not judged: a manifest before it is not valid"
                at = {"device_id": f.device_id, "chain_id": f.chain_id, "sequence": f.sequence}
                self._add(Step.LINKS, text, day=f.day, note=True, **at)
            else:
                by_day.setdefault(f.day, []).append(f)
        for day, findings in by_day.items():
            chain_entries(self.report, self.tenant_id, Step.LINKS, day, findings)
        for loss in judged.over_declared:
            self._add(
                Step.LINKS,
                f"a loss declares sequences {loss.first} to {loss.last}, some of which are held",
                note=True,
                device_id=loss.device_id,
                chain_id=loss.chain_id,
            )

    def _is_open(self, found: Finding) -> bool:
        """Could a day whose manifest is not valid hold what is missing? That day is the finding."""
        after = found.after_day
        return after is not None and any(
            not day or after < day < found.day for day in self._not_valid
        )

    def _is_event(self, counting: Sequence[Manifest], device_id: str, event_hash: str) -> bool:
        """Is this the hash of any sealed event of a device? Asked for restored edges only."""
        wanted = pa.scalar(bytes.fromhex(event_hash), pa.binary(32))
        for part in (p for m in counting for p in m.parts):
            if not part.first_device <= device_id <= part.last_device:
                continue
            try:
                with self.source.open(part.object.key, part.object.version_id) as file:
                    rows = row_groups_of(file, device_id, ["device_id", "event_hash"])
                    if any(pc.any(pc.equal(r["event_hash"], wanted)).as_py() for r in rows):
                        return True
            except (AuditPlatformError, pa.ArrowException, OSError, ValueError):
                continue  # step 6 or 7 has named it
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


def parse_head(text: str) -> TrustedHead:
    """`tenant:number:sha256` as given on a command line. Raises `RecordMalformed`."""
    tenant, _, rest = text.partition(":")
    number, _, sha256 = rest.partition(":")
    if not (layout.TENANT_PATTERN.fullmatch(tenant) and number.isdigit() and len(sha256) == 64):  # noqa: PLR2004 - hex digits of SHA-256
        raise RecordMalformed("trusted head", text, "wanted tenant:number:sha256")
    return TrustedHead(tenant, int(number), sha256)
