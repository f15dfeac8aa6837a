"""The spool over power cuts: what was acknowledged or read is there, whenever the power goes.

Also that each fsync is needed: with any one left out, the same check finds something lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import pytest

from audit_platform.adapters.embedded.files import FsyncSite
from audit_platform.adapters.spool.spool import FileSpool
from audit_platform_tests.adapters.lives import broken_promises
from audit_platform_tests.adapters.spool.bench import ASIDE, SPOOL, Model, entry, open_spool
from audit_platform_tests.powercut import PowerCut, PowerCutFiles

SITES: Final = [s for s in FsyncSite if s.startswith("spool_")]
#: These are come to only when a segment is damaged.
DAMAGE_SITES: Final = [s for s in SITES if s.startswith("spool_aside_")]


@contextlib.contextmanager
def opened(files: PowerCutFiles) -> Iterator[FileSpool]:
    """One process's spool."""
    spool = open_spool(files)
    try:
        yield spool
    finally:
        spool.close()


class SpoolScript:
    """Appends, rolls, releases, reads; a second process goes on."""

    #: Whether the cut may leave zeros for bytes that did not arrive, which look like damage.
    zeros_may_show = False

    def __init__(self) -> None:
        self.model = Model()

    def run(self, files: PowerCutFiles) -> None:
        """See `Script.run`."""
        with opened(files) as spool:
            self.model.append(spool, entry(b"a" * 50), entry(b"b", "critical", "monitor-2"))
            self.model.release(spool, 1, 2)
            for i in range(6):  # rolls
                self.model.append(spool, entry(bytes(range(i, i + 150))), entry(b"c%d" % i))
            self.model.read(spool, 200)
            self.model.release(spool, 0, 5)
            self.model.append(spool, entry(b"d"))
        with opened(files) as spool:
            self.model.release(spool, 7, 9)  # before a new segment's name is fsynced
            self.model.append(spool, entry(b"e" * 20))
            self.model.release(spool, 9, 100)  # everything: no segment is left

    def look(self, files: PowerCutFiles) -> None:
        """See `Script.look`."""
        with opened(files) as spool:
            self.model.read(spool)
            self.model.append(spool, entry(b"after the crash"))
            self.model.release(spool, 2, 4)

    def broken(self, files: PowerCutFiles) -> list[str]:
        """See `Script.broken`."""
        with opened(files) as spool:
            found = self.model.missing(spool)
            if spool.status().set_aside and not self.zeros_may_show:
                found.append(f"called corrupt: {spool.status().set_aside}")
            # And the spool goes on: the next entry does not take a position that was told.
            try:
                self.model.append(spool, entry(b"next"))
            except AssertionError as e:
                found.append(str(e))
        return found


class TornSpoolScript(SpoolScript):
    """The same on a disk that keeps a part of what was not fsynced."""

    zeros_may_show = True


class DamageScript:
    """A segment whose header rotted is set aside; its bytes must not be lost on the way."""

    def __init__(self) -> None:
        self.bytes = b""

    def run(self, files: PowerCutFiles) -> None:
        """See `Script.run`."""
        with opened(files) as spool:
            for i in range(3):
                spool.append([entry(bytes(range(i, i + 250)))])
        (path, *_) = sorted(p for p in files.paths() if p.endswith(".seg"))
        files.flip(SPOOL / path.rpartition("/")[2], 20)
        self.bytes = files.reader(SPOOL / path.rpartition("/")[2]).read()
        with opened(files) as spool:
            assert [e.position for e in spool.read(0, 1 << 20)] == [1, 2]
            spool.append([entry(b"goes on")])

    def look(self, files: PowerCutFiles) -> None:
        """See `Script.look`."""
        with opened(files) as spool:
            spool.read(0, 1 << 20)
            spool.append([entry(b"goes on")])

    def broken(self, files: PowerCutFiles) -> list[str]:
        """See `Script.broken`."""
        if not self.bytes:
            return []
        names = files.listdir(SPOOL), files.listdir(ASIDE) if files.stat(ASIDE) else []
        kept = [
            folder / n for folder, found in zip((SPOOL, ASIDE), names, strict=True) for n in found
        ]
        return (
            []
            if any(
                (stat := files.stat(path)) is not None
                and not stat.is_dir
                and files.reader(path).read() == self.bytes
                for path in kept
            )
            else ["the damaged segment is gone"]
        )


def test_nothing_told_is_lost_whenever_the_power_goes() -> None:
    assert list(broken_promises(SpoolScript)) == []


def test_nothing_told_is_lost_when_a_part_of_the_rest_survives() -> None:
    assert list(broken_promises(TornSpoolScript, seeds=range(3))) == []


def test_a_damaged_segment_is_kept_whenever_the_power_goes() -> None:
    assert list(broken_promises(DamageScript, seeds=(None, *range(5)))) == []


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("steps", range(1, 6))
def test_no_position_is_given_again_when_the_last_segment_goes(steps: int, seed: int) -> None:
    files, model = PowerCutFiles(), Model()
    spool = open_spool(files)
    model.append(spool, entry(b"a"), entry(b"b"))
    files.fail_at = files.operations + 1
    assert not model.append(spool, entry(b"its failure ends the segment"))
    files.stop_at = files.operations + steps  # somewhere in deleting it
    with contextlib.suppress(PowerCut):
        model.release(spool, 0, 2)
    files.cut(seed)
    assert model.append(open_spool(files), entry(b"c"))  # which looks at positions


@pytest.mark.parametrize("site", SITES)
def test_each_fsync_left_out_loses_something(site: FsyncSite) -> None:
    if site in DAMAGE_SITES:  # only a disk that keeps some names and not others shows the folder's
        found = broken_promises(DamageScript, omit={site}, seeds=(None, *range(5)))
    else:
        found = broken_promises(SpoolScript, omit={site})
    assert next(found, None) is not None


def test_the_scripts_come_to_every_fsync_of_the_spool() -> None:
    synced: set[FsyncSite] = set()
    for script, stop_at in ((SpoolScript(), 30), (SpoolScript(), None), (DamageScript(), None)):
        files = PowerCutFiles()
        files.stop_at = stop_at
        with contextlib.suppress(PowerCut):
            script.run(files)
        files.end_process()
        script.look(files)
        synced |= {s for s in files.synced if s.startswith("spool_")}
    assert synced == set(SITES)
