"""One sealed day, read back whole: steps 6 to 10 and 12 of a check.

Belongs here: objects, rows, roots, chains, quarantine and edge signatures of the day that one
manifest names. Does not: manifests among themselves and links between days (`fsck.py`), a part's
rows (`partcheck.py`). Source: design section 5; `docs/formats.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

from audit_platform.errors import AuditPlatformError, ObjectNotFound
from audit_platform.record import layout, merkle
from audit_platform.record.chain import INFORMATIONAL, ChainSpan, ChainWalker, Finding, Verdict
from audit_platform.record.edges import edge_facts
from audit_platform.record.manifest import Manifest, NamedObject, Part
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

    def hidden_among(self, folder: str, first: str, last: str) -> Iterable[tuple[str, str]]:
        """(key, what lies over it) of the keys of a folder from `first` to `last`, both included.

        `folder` ends with `/`. As `hidden`, for many keys at the cost of a listing.
        """
        ...


def chain_entries(
    report: Report, tenant_id: str, step: Step, day: str, findings: Sequence[Finding]
) -> None:
    """Chain verdicts as entries: faults are findings, the informational ones notes."""
    faults = [f for f in findings if f.verdict not in INFORMATIONAL]
    notes = [f for f in findings if f.verdict in INFORMATIONAL]
    for found, note in ((faults, False), (notes, True)):
        report.entries += [
            Entry(
                step,
                f"{f.verdict}: {f.detail}",
                note=note,
                tenant_id=tenant_id,
                day=day,
                verdict=str(f.verdict),
                row=f.row,
                device_id=f.device_id,
                chain_id=f.chain_id,
                sequence=f.sequence,
            )
            for f in found[:MAX_CHAIN_ENTRIES]
        ]
        if len(found) > MAX_CHAIN_ENTRIES:
            text = f"{len(found)} such chain verdicts in all; the first are listed"
            report.entries.append(Entry(step, text, note=note, tenant_id=tenant_id, day=day))


@dataclass(slots=True)
class DayCheck:
    """The check of one manifest's day; findings and counts go to the report."""

    source: Source
    report: Report
    manifest: Manifest

    def add(self, step: Step, message: str, **more: object) -> None:
        """An entry about this day."""
        at = {"tenant_id": self.manifest.tenant_id, "day": self.manifest.day}
        self.report.entries.append(
            Entry(step, message, **at, **more)  # type: ignore[arg-type] # fields of Entry by name
        )

    def run(self) -> None:
        """Steps 6 to 10 and 12."""
        walker = ChainWalker()
        findings: list[Finding] = []
        signed: list[bytes] = []
        sound = True
        for part in self.manifest.parts:
            check = self._part(part, walker)
            sound = sound and check is not None and check.sound
            if check is not None:
                findings += check.chain_findings
                signed += check.signed
        self._roots()
        if sound:
            self._chains(walker.finish(), findings)
            self._edges(signed)
        for o in (*self.manifest.quarantine, *self.manifest.undecodable):
            self.object(o)
        self._records()
        for text, link in check_quarantine(self.source.open, self.manifest):
            self.add(
                Step.QUARANTINE,
                text,
                device_id=link.device_id,
                chain_id=link.chain_id,
                sequence=link.sequence_number,
            )

    def _records(self) -> None:
        """Step 6 for the records that the manifest's inputs stand on: nothing may lie over one.

        The oldest version counts all the same; a copy of COLD alone has none of them.
        """
        inputs = self.manifest.inputs
        single = {
            layout.closing_key(self.manifest.day),
            *(layout.generation_key(i.generation) for i in inputs),
        }
        found = [(key, self.source.hidden(key)) for key in sorted(single)]
        for i in inputs:
            prefix = layout.PREFIX_OF_TOPIC.get(i.topic)
            if prefix is None or i.first_offset >= i.end_offset:
                continue
            first, last = (
                layout.RangeAddress(prefix, i.generation, i.partition, offset).record_key
                for offset in (i.first_offset, i.end_offset - 1)
            )
            folder = layout.range_records_prefix(prefix, i.generation, i.partition)
            found += self.source.hidden_among(folder, first, last)
        for key, over in found:
            if over:
                self.add(Step.OBJECTS, over, key=key, verdict="hidden")

    def object(self, named: NamedObject) -> bool:
        """Step 6. True when the object can be read at all."""
        key = named.key
        try:
            with self.source.open(key, named.version_id) as file:
                size, sha256 = _digest(file)
        except ObjectNotFound:
            self.add(Step.OBJECTS, "a named object is missing", key=key)
            return False
        except (AuditPlatformError, OSError) as e:
            self.add(Step.OBJECTS, f"a named object cannot be read: {e}", key=key)
            return False
        self.report.objects += 1
        self.report.bytes += size
        if size != named.size:
            text = f"the object has {size} bytes, its manifest says {named.size}"
            self.add(Step.OBJECTS, text, key=key)
        if sha256 != named.sha256:
            text = f"the object's SHA-256 is {sha256}, its manifest says {named.sha256}"
            self.add(Step.OBJECTS, text, key=key)
        over = self.source.hidden(key)
        if over:
            self.add(Step.OBJECTS, over, key=key, verdict="hidden")
        return True

    def _part(self, part: Part, walker: ChainWalker) -> PartCheck | None:
        """Steps 6, 7 and 8 for one part."""
        key = part.object.key
        if not self.object(part.object):
            return None
        with self.source.open(key, part.object.version_id) as file:
            check = check_part(file, self.manifest.tenant_id, walker)
        self.report.rows += check.rows
        for p in check.problems:
            self.add(
                Step.ROWS,
                p.reason,
                key=key,
                row=p.row,
                device_id=p.device_id,
                chain_id=p.chain_id,
                sequence=p.sequence,
            )
        if check.bad_rows > len(check.problems):
            text = f"{check.bad_rows} rows in all are wrong; the first are named"
            self.add(Step.ROWS, text, key=key)
        if check.rows != part.object.rows:
            text = f"the part has {check.rows} rows, its manifest says {part.object.rows}"
            self.add(Step.ROWS, text, key=key)
        self._part_roots(part, check)
        return check

    def _part_roots(self, part: Part, check: PartCheck) -> None:
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
        self.add(Step.ROOTS, text, key=part.object.key)

    def _roots(self) -> None:
        roots = [bytes.fromhex(p.root) for p in self.manifest.parts]
        if merkle.day_root(roots).hex() != self.manifest.root:
            text = "the day's Merkle root does not follow from its parts' roots"
            self.add(Step.ROOTS, text)
        if sum(p.object.rows for p in self.manifest.parts) != self.manifest.rows:
            self.add(Step.ROOTS, "the day's rows are not the sum of its parts'")

    def _chains(self, spans: Sequence[ChainSpan], findings: Sequence[Finding]) -> None:
        """Step 9: the manifest states what its rows show, so its word is checked against them."""
        if tuple(spans) != self.manifest.chains:
            said = {(c.device_id, c.chain_id): c for c in self.manifest.chains}
            seen = {(c.device_id, c.chain_id): c for c in spans}
            for device, chain in sorted(said.keys() | seen.keys()):
                if said.get((device, chain)) != seen.get((device, chain)):
                    text = "the rows do not show what the manifest says of this chain"
                    self.add(Step.CHAINS, text, device_id=device, chain_id=chain)
        # Gaps are judged with the other days (step 11): a late event may stand in a later one.
        faults = [f for f in findings if f.verdict not in (*INFORMATIONAL, Verdict.GAP)]
        chain_entries(self.report, self.manifest.tenant_id, Step.CHAINS, self.manifest.day, faults)

    def _edges(self, signed: Sequence[bytes]) -> None:
        # Step 12: only a bad signature or an unknown key is a finding.
        facts = edge_facts(signed, self.manifest.edge_keys)
        for p in facts.problems:
            self.add(
                Step.EDGES,
                p.reason,
                device_id=p.device_id,
                chain_id=p.chain_id,
                sequence=p.sequence,
            )
        m = self.manifest
        said = (list(m.starts), list(m.losses), set(m.edge_keys))
        if said != (facts.starts, facts.losses, facts.key_ids):
            text = "the rows do not show the chain starts and losses that the manifest lists"
            self.add(Step.EDGES, text)


def _digest(file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(file):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_READ_BYTES):
        yield chunk
