"""The closed segments of a spool: which there are, what of them is released, dropped, set aside.

Belongs here: what opening finds, releasing, choosing what a full spool drops. Does not: the segment
that is being written, threads, callers (`spool.py`).
Source: `README.md` beside this file.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from audit_platform.adapters.embedded.files import Files
from audit_platform.adapters.spool.aside import Aside
from audit_platform.adapters.spool.examine import Examined, examine
from audit_platform.adapters.spool.index import Index, Rows, Summary
from audit_platform.adapters.spool.runs import Runs
from audit_platform.adapters.spool.segment import SUFFIX, no_keys, segment_path
from audit_platform.ports import Full, Keys, SpoolLimits

_HOUR_MS: Final = 3_600_000

_log = logging.getLogger(__name__)


class Shelf:
    """All closed segments. Not for several threads at once. Raises `OSError`, `KeysUnavailable`.

    `next`: the lowest position that was certainly never given. `open_base`: where the segment that
    is being written begins.
    """

    def __init__(self, files: Files, folder: Path, keys: Keys | None) -> None:
        self._files = files
        self._folder = folder
        self._keys = keys
        self._index = Index(files, folder)
        self.aside = Aside(files, folder)
        self.segments: dict[int, Summary] = {}
        self._bases: list[int] = []  # of `segments`, ascending
        self._undeclared: dict[int, Summary] = {}
        self._undeleted: set[int] = set()
        self.released = Runs()
        self.next = 0
        self.open_base: int | None = None
        self.bytes = 0
        self.entries = 0
        self._plain = 0
        self._open()

    # ---------------------------------------------------------------------------------- opening

    def _open(self) -> None:
        rows = self._index.load()
        self.released, self.next = rows.released, rows.next
        self.aside.load(rows.set_aside)
        names = self._files.listdir(self._folder)
        bases = sorted(int(n[: -len(SUFFIX)]) for n in names if _is_segment(n))
        for number, base in enumerate(bases):
            known = rows.segments.get(base)
            if known is None or base < self._end():
                after = bases[number + 1] if number + 1 < len(bases) else None
                self._adopt(base, after)
            else:
                if known.encrypted and self._keys is None:
                    raise no_keys(segment_path(self._folder, base))
                self._add(known)
        self.next = max(self.next, self._end())
        try:
            self._rewrite_index()
        except OSError as e:
            _log.warning("the spool's index was not written: %s", e)
        for base in list(self._bases):
            self._delete_if_released(base)

    def _adopt(self, base: int, next_base: int | None) -> None:
        """Take in a segment that the index does not tell of.

        Its name is durable: whoever made it wrote no frame before that.
        """
        path = segment_path(self._folder, base)
        if base < self._end():
            reason = "its positions are those of another segment too"
            self.aside.keep(path, base, base, reason, move=True)
            return
        found = examine(self._files, path, base, next_base, self._keys)
        self.next = max(self.next, found.next)
        if found.summary is None:
            self._leave_out(path, found)
            return
        for first, after, reason in found.holes:
            self._keep_hole(path, first, after, reason)
        self._add(found.summary)

    def _leave_out(self, path: Path, found: Examined) -> None:
        if not found.reason:  # nothing was ever in it
            with contextlib.suppress(OSError):
                self._files.unlink(path)
            return
        self.aside.keep(path, found.base, found.next, found.reason, move=True)

    def _end(self) -> int:
        return self.segments[self._bases[-1]].next if self._bases else 0

    # ---------------------------------------------------------------------------------- asking

    def find(self, position: int) -> Summary | None:
        """The first segment that ends behind this position."""
        at = max(bisect.bisect_right(self._bases, position) - 1, 0)
        for base in self._bases[at : at + 2]:
            if self.segments[base].next > position:
                return self.segments[base]
        return None

    @property
    def oldest(self) -> Summary | None:
        """The first segment."""
        return self.segments[self._bases[0]] if self._bases else None

    @property
    def first(self) -> int:
        """The first position that is kept, or the next one to be given."""
        if self._bases:
            return self._bases[0]
        return self.next if self.open_base is None else self.open_base

    @property
    def all_encrypted(self) -> bool:
        """Whether no segment is plain."""
        return self._plain == 0

    def victims(self, over: int, limits: SpoolLimits, now_ms: int) -> list[Summary] | None:
        """Segments to drop so that `over` bytes fewer are held and none is over its age.

        None when what may be dropped is not enough. Of segments over their age only one at a time:
        after a long stand-still the callers get them one by one.
        """
        chosen: list[Summary] = []
        aged = False
        too_old_ms = now_ms - limits.max_hours * _HOUR_MS
        for base in self._bases:
            summary = self.segments[base]
            too_old = summary.last_ms < too_old_ms
            if over <= 0 and (not too_old or aged):
                break
            if all(limits.policy.get(c) is Full.DROP for c in summary.classes):
                chosen.append(summary)
                over -= summary.bytes
                aged = aged or too_old
            elif too_old:
                return None
        return chosen if over <= 0 else None

    # -------------------------------------------------------------------------------- changing

    def close_segment(self, summary: Summary) -> None:
        """A segment takes no more frames: it is one of ours now, or gone when all is released."""
        self.next = max(self.next, summary.next)
        self.open_base = None
        if summary.next == summary.base:
            with contextlib.suppress(OSError):
                self._files.unlink(segment_path(self._folder, summary.base))
            return
        self._add(summary)
        if not self._delete_if_released(summary.base):
            self._index.hint(summary)

    def release(self, runs: Iterable[tuple[int, int]]) -> None:
        """Mark runs; durable on return. Then delete what is wholly released."""
        clean = [(max(first, 0), min(after, self.next)) for first, after in runs]
        clean = sorted((first, after) for first, after in clean if first < after)
        for run in clean:
            self.released.add(*run)
        for base in list(self._undeleted):
            self._unlink(base)
        touched = [base for first, after in clean for base in self._between(first, after)]
        # A full disk takes no marks before something is deleted. But the last segment waits for
        # them: with it goes what else says which positions were given.
        last = self._bases[-1] if self._bases and self.open_base is None else self.next
        for base in touched:
            if base < last:
                self._delete_if_released(base)
        if self._index.wants_rewrite:
            self._rewrite_index()
        elif clean:
            self._index.add_released(clean)
        if touched:
            self._delete_if_released(touched[-1])

    def drop(self, summaries: list[Summary]) -> None:
        """These are read no more; their files stay until `declared`."""
        for summary in summaries:
            self._remove(summary.base)
            self._undeclared[summary.base] = summary

    def undrop(self, summaries: list[Summary]) -> None:
        """They are there again: nobody was told that they were dropped."""
        for summary in summaries:
            if self._undeclared.pop(summary.base, None) is not None:
                self._add(summary)

    def declared(self, bases: Iterable[int]) -> None:
        """The loss of these is on record: delete them."""
        for base in bases:
            if self._undeclared.pop(base, None) is not None:
                self._unlink(base)

    def keep_hole(self, base: int, first: int, after: int, reason: str) -> None:
        """Positions of a segment turned out to be unreadable: a copy is kept, we go on without."""
        if not self.released.covers(first, after):
            self._keep_hole(segment_path(self._folder, base), first, after, reason)
            self._delete_if_released(base)

    def set_aside(self, base: int, reason: str) -> None:
        """Nothing of a segment can be read: it is not one of ours any more."""
        if base in self.segments:
            summary = self.segments[base]
            self._remove(base)
        elif base in self._undeclared:
            summary = self._undeclared.pop(base)
        else:
            return
        path = segment_path(self._folder, base)
        self._index.hint(self.aside.keep(path, base, summary.next, reason, move=True))

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    # --------------------------------------------------------------------------------- inside

    def _between(self, first: int, after: int) -> list[int]:
        """Bases of the segments that may hold one of these positions."""
        at = max(bisect.bisect_right(self._bases, first) - 1, 0)
        return self._bases[at : bisect.bisect_left(self._bases, after)]

    def _keep_hole(self, path: Path, first: int, after: int, reason: str) -> None:
        report = self.aside.keep(path, first, after, reason, move=False)
        self.released.add(first, after)
        self._index.hint(report, (first, after))

    def _rewrite_index(self) -> None:
        self.released.forget_below(min([self.first, *self._undeclared, *self._undeleted]))
        segments = {base: self.segments[base] for base in self._bases} | self._undeclared
        self._index.rewrite(Rows(segments, self.released, self.next, self.aside.reports))

    def _delete_if_released(self, base: int) -> bool:
        summary = self.segments.get(base)
        if summary is None or not self.released.covers(summary.base, summary.next):
            return False
        self._remove(base)
        self._unlink(base)
        return True

    def _unlink(self, base: int) -> None:
        """Not fsynced: a segment that comes back is released, or sent again."""
        self._undeleted.discard(base)
        try:
            self._files.unlink(segment_path(self._folder, base))
        except FileNotFoundError:
            _log.warning("segment %d was deleted by somebody else", base)
        except OSError as e:
            self._undeleted.add(base)  # its marks stay, and the next release tries again
            _log.warning("segment %d was not deleted: %s", base, e)

    def _add(self, summary: Summary) -> None:
        bisect.insort(self._bases, summary.base)
        self.segments[summary.base] = summary
        self._count(summary, 1)

    def _remove(self, base: int) -> None:
        self._count(self.segments.pop(base), -1)
        del self._bases[bisect.bisect_left(self._bases, base)]

    def _count(self, summary: Summary, sign: int) -> None:
        self.bytes += sign * summary.bytes
        self.entries += sign * summary.entries
        self._plain += sign * (not summary.encrypted)


def _is_segment(name: str) -> bool:
    return name.endswith(SUFFIX) and len(name) == 20 + len(SUFFIX) and name[:20].isdigit()
