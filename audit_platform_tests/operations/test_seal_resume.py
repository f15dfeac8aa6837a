"""A seal that was killed goes on: landing is not read again, no part is put again."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit_platform.operations import gather, parts
from audit_platform.operations.manifests import read_history
from audit_platform.operations.seal_work import STALE_SECONDS
from audit_platform.record import sealed
from audit_platform_tests import attackers
from audit_platform_tests.world import DAY, World, open_world

TENANT = "north"
PARTS = 10


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A closed day that will have ten parts, a device in each."""
    monkeypatch.setattr(sealed, "MAX_ROWS_PER_PART", 1)
    monkeypatch.setattr(gather, "BUCKET_ROWS", 1)
    with open_world(tmp_path) as opened:
        edge = opened.edge(TENANT)
        now = opened.clock.now_ms()
        opened.ingest(TENANT, [edge.start(now), *edge.heartbeats(PARTS - 1, 30, now)])
        opened.archive()
        opened.close()
        yield opened


class Died(Exception):
    """Stands for a SIGKILL at that point; `failures/test_killpoints.py` has the real ones."""


def die_after(world: World, count: int) -> None:
    """A seal that dies when so many parts are put."""
    seen: list[object] = []

    def dies(point: object) -> None:
        seen.append(point)
        if len(seen) == count:
            raise Died

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "reach", dies)
        with pytest.raises(Died):
            world.seal(TENANT)


def read_from(world: World, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, from now on, bytes that are read: of `landing`'s rows, and of other objects."""
    read: Counter[str] = Counter()
    real_open, real_get = world.platform.objects.open, world.platform.objects.get

    def counted(key: str, version_id: str) -> Any:
        read[kind(key)] += world.platform.objects.head(key, version_id).size
        return real_open(key, version_id)

    def got(key: str, version_id: str) -> bytes:
        data = real_get(key, version_id)
        read[kind(key)] += len(data)
        return data

    monkeypatch.setattr(world.platform.objects, "open", counted)
    monkeypatch.setattr(world.platform.objects, "get", got)
    return read


def kind(key: str) -> str:
    """Range records lie below landing too, and belong to all tenants."""
    return "landing" if key.startswith("landing/") and "/tenant=" in key else "other"


def left(world: World) -> list[Path]:
    """Files that a dead sealer left."""
    return sorted((world.folder / "work" / "seal").glob("*/bucket-*"))


def is_whole(world: World) -> bool:
    """The day verifies, and the work is gone."""
    assert world.verify(TENANT).findings == []
    assert list((world.folder / "work" / "seal").iterdir()) == []
    return True


def test_killed_at_four_fifths_the_next_seal_reads_no_landing_and_says_what_it_skipped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_from(world, monkeypatch)
    die_after(world, 8)
    assert whole["landing"] > 0
    again = read_from(world, monkeypatch)
    result = world.seal(TENANT)
    keys = [p.object.key for p in read_history(world.platform, TENANT).counting[DAY].parts]
    assert len(keys) == PARTS
    assert result.skipped == tuple(keys[:8])
    assert result.landing_skipped
    assert again["landing"] == 0
    assert sum(again.values()) < 0.3 * sum(whole.values())
    assert (result.rows, result.adopted) == (1 + 30 * (PARTS - 1), False)
    assert is_whole(world)


def test_a_seal_that_was_not_killed_skips_nothing(world: World) -> None:
    result = world.seal(TENANT)
    assert (result.skipped, result.landing_skipped) == ((), False)
    assert is_whole(world)


def test_killed_while_rows_are_brought_together_the_next_seal_begins_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gather.spilled

    def dies(*given: Any) -> list[Path]:
        real(*given)
        raise Died

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gather, "spilled", dies)
        with pytest.raises(Died):
            world.seal(TENANT)
    assert left(world)
    again = read_from(world, monkeypatch)
    assert not world.seal(TENANT).landing_skipped
    assert again["landing"] > 0
    assert is_whole(world)


@pytest.mark.parametrize("how", ["flipped", "gone", "short"])
def test_rows_that_are_not_as_they_were_left_are_not_used(world: World, how: str) -> None:
    die_after(world, 8)
    file = left(world)[3]
    if how == "flipped":
        attackers.flip(file, file.stat().st_size // 2)
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-8])
    result = world.seal(TENANT)
    assert not result.landing_skipped
    assert len(result.skipped) == 8  # parts are what the store has
    assert is_whole(world)


def test_rows_that_came_since_are_not_left_out(world: World) -> None:
    die_after(world, 8)
    edge = world.edge(TENANT, seed=1)
    # Not covered by the closing: the next seal has the same inputs; a further closing has more.
    late = [edge.start(world.clock.now_ms() - 3_600_000)]
    world.ingest(TENANT, late, at_ms=world.clock.now_ms() - 3_600_000)
    world.archive()
    result = world.seal(TENANT)
    assert result.landing_skipped
    assert is_whole(world)


def test_two_sealers_at_once_do_not_share_a_folder(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: list[bool] = []
    real = parts.put_parts

    def second_meanwhile(*given: Any) -> Any:
        if not inner:
            inner.append(True)
            inner.append(world.seal(TENANT).landing_skipped)
        return real(*given)

    monkeypatch.setattr("audit_platform.operations.seal.put_parts", second_meanwhile)
    result = world.seal(TENANT)
    assert inner == [True, False]
    assert len(result.skipped) == PARTS  # the second one had put them all
    assert is_whole(world)


def test_what_nobody_goes_on_with_is_cleared_away(world: World) -> None:
    die_after(world, 8)
    (folder,) = {file.parent for file in left(world)}
    other = folder.with_name("0" * 32)
    folder.rename(other)
    old = time.time() - STALE_SECONDS - 60
    os.utime(other, (old, old))
    assert not world.seal(TENANT).landing_skipped
    assert not other.exists()
