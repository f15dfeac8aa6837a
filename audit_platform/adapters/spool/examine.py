"""Looking through one segment that the index does not tell of: every byte, once, at opening.

Belongs here: cutting a torn end, finding holes, what the segment holds. Does not: what becomes of
it (`shelf.py`). Source: `README.md` beside this file.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from audit_platform.adapters.embedded import segments
from audit_platform.adapters.embedded.files import Files, FsyncSite
from audit_platform.adapters.spool.index import Summary
from audit_platform.adapters.spool.segment import OpenSegment, Unreadable
from audit_platform.ports import Keys

#: Decompressed bytes held at a time.
_READ_BYTES = 1 << 20


@dataclass(slots=True)
class Examined:
    """`summary` is None when no entry can be read; then `reason` is "" if none was ever in it.

    `next`: the lowest position that certainly was not given in it. `holes`: (first, next, reason).
    """

    base: int
    next: int
    summary: Summary | None = None
    reason: str = ""
    holes: list[tuple[int, int, str]] = field(default_factory=list)


def examine(
    files: Files, path: Path, base: int, next_base: int | None, keys: Keys | None
) -> Examined:
    """See the module. `next_base`: where the next segment begins, if there is one.

    Raises `KeysUnavailable`; a disk error is a reason like others.
    """
    try:
        return _examine(files, path, base, next_base, keys)
    except OSError as e:
        return Examined(base, next_base or base, None, f"can not be read: {e}")


def _examine(
    files: Files, path: Path, base: int, next_base: int | None, keys: Keys | None
) -> Examined:
    handle = files.open(path)
    try:
        size = files.size(handle)
        header = segments.parse_header(files.pread(handle, segments.HEADER_BYTES, 0))
        if header is None and size <= segments.HEADER_BYTES:
            return Examined(base, base)
        tag = header.tag if header else None
        start = segments.HEADER_BYTES
        opening = segments.parse_frame(
            files.pread(handle, segments.FRAME_HEADER_BYTES, start), start, tag
        )
        start_bytes = opening.end if opening is not None and opening.count == 0 else start
        found = segments.scan(files, handle, path.name, start, next_offset=base, tag=tag)
        # A dead process may have died between its write and its fsync. If the disk refuses this,
        # the frames count all the same: if they were promised they are durable, else nobody waits.
        with contextlib.suppress(OSError):
            if found.torn:
                files.truncate(handle, found.position)
            files.fsync(handle, FsyncSite.SPOOL_ADOPTED)
    finally:
        files.close(handle)
    if not found.damage and found.position <= start_bytes:
        return Examined(base, base)
    end = found.next_offset if next_base is None else min(found.next_offset, next_base)
    examined = Examined(base, end)
    try:
        segment = OpenSegment(files, path, base, keys)
    except Unreadable as e:
        return Examined(base, next_base or end, None, str(e))
    try:
        summary = _summarise(segment, examined, found.position, end)
        if not examined.holes and not segment.is_in_order(found.position):
            examined.holes.append((end, end, "frames are not in their places"))
    finally:
        segment.close()
    if examined.holes and next_base is not None and next_base > end:
        # Something is wrong with it, so its own word on where it ends does not count.
        examined.holes.append((end, next_base, examined.holes[0][2]))
        examined.next = next_base
        summary = None if summary is None else summary._replace(next=next_base)
    examined.summary = summary
    examined.reason = examined.holes[0][2] if summary is None else ""
    return examined


def _summarise(segment: OpenSegment, examined: Examined, limit: int, end: int) -> Summary | None:
    entries, first_ms, last_ms = 0, 0, 0
    classes: set[str] = set()

    def on_hole(first: int, after: int, reason: str) -> None:
        if (first, after, reason) not in examined.holes:
            examined.holes.append((first, after, reason))

    position = segment.base
    while found := segment.read(position, limit, end, _READ_BYTES, on_hole):
        first_ms = first_ms if entries else found[0].appended_ms
        last_ms = max(last_ms, found[-1].appended_ms)
        classes |= {entry.event_class for entry in found}
        entries += len(found)
        position = found[-1].position + 1
    if not entries:
        return None
    return Summary(
        segment.base,
        end,
        limit,
        entries,
        first_ms,
        last_ms,
        segment.encrypted,
        tuple(sorted(classes)),
    )
